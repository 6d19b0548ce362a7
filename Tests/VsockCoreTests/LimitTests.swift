// SPDX-License-Identifier: Apache-2.0
//
// Every table has a limit; reaching it refuses new work and leaves the old alone.

import Testing
import VsockTestSupport
import VsockWire

@testable import VsockCore

@Suite("Limits")
struct LimitTests {
    static let start = Instant(nanoseconds: 0)

    @Test("backlog: connections that wait to be taken, and no more; a taken one makes room")
    func backlog() throws {
        var host = Endpoint(.host())
        try host.listen(.stream, port: 1234, backlog: 3)
        var receptions: [Reception] = []
        for port in 0..<5 as Range<UInt32> {
            receptions.append(host.receive(PacketBuilder(port: port).packet(.request)))
        }
        #expect(receptions[3] == .dropped(.limitReached) && receptions[4] == .dropped(.limitReached))
        let operations = host.allControlPackets().map(\.operation)
        #expect(operations.filter { $0 == .response }.count == 3)
        #expect(operations.filter { $0 == .reset }.count == 2)
        host.takeAccepted(port: 1234)
        receptions = (5..<7).map { host.receive(PacketBuilder(port: $0).packet(.request)) }
        guard case .accepted = receptions[0] else {
            Issue.record("\(receptions)")
            return
        }
        #expect(receptions[1] == .dropped(.limitReached))
    }

    @Test("backlog: taking more than waits, or from a port that is not listened on, is harmless")
    func takingTooMany() throws {
        var host = Endpoint(.host())
        try host.listen(.stream, port: 1234, backlog: 0)
        for _ in 0..<5 { host.takeAccepted(port: 1234) }
        host.takeAccepted(port: 99)
        let receptions = (0..<2).map { host.receive(PacketBuilder(port: $0).packet(.request)) }
        // A backlog of 0 is one of 1, as in Linux.
        guard case .accepted = receptions[0] else {
            Issue.record("\(receptions)")
            return
        }
        #expect(receptions[1] == .dropped(.limitReached))
    }

    @Test("listeners: one for a port, of either type; a port that is given up is free again")
    func listeners() throws {
        var host = Endpoint(.host())
        try host.listen(.stream, port: 1234, backlog: 1)
        for type in [SocketType.stream, .seqpacket] {
            #expect(throws: SocketError.addressInUse) { try host.listen(type, port: 1234, backlog: 1) }
        }
        host.stopListening(port: 1234)
        let reception = host.receive(PacketBuilder().packet(.request))
        #expect(reception == .dropped(.noListener))
        try host.listen(.seqpacket, port: 1234, backlog: 1)
    }

    @Test("half-open connections: refused at the limit in both directions; an answer, a refusal and an end make room")
    func halfOpen() throws {
        var configuration = EndpointConfiguration.host()
        configuration.maximumHalfOpenCount = 2
        var host = Endpoint(configuration)
        host.askForUnboundPorts()
        let address = VsockAddress(cid: 3, port: 9)
        let connecting = try host.connect(.stream, to: address, now: Self.start)
        guard case .requested(let requested) = host.receive(PacketBuilder(port: 1).packet(.request)) else {
            Issue.record("not requested")
            return
        }
        let refused = host.receive(PacketBuilder(port: 2).packet(.request))
        #expect(refused == .dropped(.limitReached))
        #expect(throws: SocketError.noBufferSpace) { try host.connect(.stream, to: address, now: Self.start) }
        #expect(host.counters.refusedByLimit == 2)
        host.accept(requested)
        #expect(host.halfOpenCount == 1)
        guard case .requested(let next) = host.receive(PacketBuilder(port: 3).packet(.request)) else {
            Issue.record("not requested")
            return
        }
        host.refuse(next)
        host.abort(connecting)
        #expect(host.halfOpenCount == 0)
        _ = try host.connect(.stream, to: address, now: Self.start)
        host.forgetAll()
        #expect(host.halfOpenCount == 0)
    }

    @Test("connections: refused at the limit in both directions, and counted; a freed slot is used again")
    func connections() throws {
        var configuration = EndpointConfiguration.host()
        configuration.maximumConnectionCount = 2
        var host = Endpoint(configuration)
        try host.listen(.stream, port: 1234, backlog: 10)
        let address = VsockAddress(cid: 3, port: 9)
        let id = try host.connect(.stream, to: address, now: Self.start)
        guard case .accepted = host.receive(PacketBuilder(port: 1).packet(.request)) else { return }
        _ = host.allControlPackets()
        let refused = host.receive(PacketBuilder(port: 2).packet(.request))
        #expect(refused == .dropped(.limitReached))
        let replies = host.allControlPackets()
        #expect(replies.map(\.operation) == [.reset])
        #expect(throws: SocketError.noBufferSpace) { try host.connect(.stream, to: address, now: Self.start) }
        #expect(host.counters.refusedByLimit == 2)
        host.abort(id)
        // The slot is free when its RST is gone, not before.
        #expect(throws: SocketError.noBufferSpace) { try host.connect(.stream, to: address, now: Self.start) }
        _ = host.allControlPackets()
        let again = try host.connect(.stream, to: address, now: Self.start)
        #expect(again.slot == id.slot && host.connectionCount == 2)
    }

    @Test("replies: nothing more is received while they wait, and none is kept beyond the limit")
    func replies() {
        var configuration = EndpointConfiguration.host()
        configuration.maximumReplyCount = 4
        var host = Endpoint(configuration)
        for port in 0..<4 as Range<UInt32> {
            let canReceive = host.canReceive
            #expect(canReceive)
            host.receive(PacketBuilder(port: port).packet(.request))
        }
        var canReceive = host.canReceive
        #expect(!canReceive)
        // A carrier that goes on all the same costs its peer the answer, nothing else.
        host.receive(PacketBuilder(port: 4).packet(.request))
        let first = host.nextControlPacket()
        canReceive = host.canReceive
        #expect(first?.destinationPort == 0 && canReceive)
        let rest = host.allControlPackets()
        #expect(rest.map(\.destinationPort) == [1, 2, 3])
        let hasMore = host.hasControlPackets
        #expect(!hasMore)
    }

    @Test("replies: a queue that never runs empty does not grow, and keeps its order")
    func repliesDoNotAccumulate() {
        var configuration = EndpointConfiguration.host()
        configuration.maximumReplyCount = 4
        var host = Endpoint(configuration)
        host.receive(PacketBuilder(port: 0).packet(.request))
        for port in 1..<10_000 as Range<UInt32> {
            host.receive(PacketBuilder(port: port).packet(.request))
            let reply = host.nextControlPacket()
            #expect(reply?.destinationPort == port - 1)
        }
        #expect(host.replies.count <= 8)
    }

    @Test("queues: a slot that is used again stands in each of them once, however often")
    func queuesDoNotAccumulate() throws {
        var host = Endpoint(.host())
        host.askForUnboundPorts()
        var peer = PacketBuilder()
        peer.bufferAllocation = 1
        for _ in 0..<1000 {
            guard case .requested(let id) = host.receive(peer.packet(.request)) else { throw HandshakeFailure() }
            host.accept(id)
            // Blocked, then writable, then gone, and nobody has asked for any of it.
            _ = host.nextPacket(id, offering: 2, capacity: 2)
            _ = host.nextPacket(id, offering: 1, capacity: 1)
            var update = peer
            update.forwardedCount = 1
            host.receive(update.packet(.creditUpdate))
            host.receive(peer.packet(.reset))
        }
        #expect(host.controlQueue.count == 1 && host.writableQueue.count == 1)
        let writable = host.nextWritable()
        let packets = host.allControlPackets()
        #expect(writable == nil && packets.isEmpty)
    }
}
