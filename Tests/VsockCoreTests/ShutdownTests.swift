// SPDX-License-Identifier: Apache-2.0
//
// virtio 1.3 "Socket Device / Connection Establishment and Termination": how connections end.

import Testing
import VsockCore
import VsockTestSupport
import VsockWire

@Suite("Shutdown and close")
struct ShutdownTests {
    static let start = Instant(nanoseconds: 0)

    @Test("half-close: the flags of SHUTDOWN add up and are never taken back")
    func flagsAreCumulative() throws {
        var pair = EndpointPair()
        let ends = try pair.establish()
        pair[.guest].shutdown(ends.guest, .send)
        var seen = pair.settle()
        #expect(seen.map(\.delivery.header.flags) == [2])
        #expect(seen.map(\.delivery.reception) == [.peerShutdown(ends.host, .send)])
        pair[.guest].shutdown(ends.guest, .send)
        seen = pair.settle()
        #expect(seen.isEmpty)
        pair[.guest].shutdown(ends.guest, .receive)
        seen = pair.settle()
        #expect(seen.map(\.delivery.header.flags) == [3])
        #expect(seen.map(\.delivery.reception) == [.peerShutdown(ends.host, .both)])
        let snapshot = pair[.host].snapshot(ends.host)
        #expect(snapshot?.peerShutdown == .both && snapshot?.isEstablished == true)
    }

    @Test("half-close: a peer that sends SHUTDOWN once more, or with less, changes nothing")
    func repeatedShutdown() throws {
        var host = Endpoint(.host())
        try host.listen(.stream, port: 1234, backlog: 1)
        let peer = PacketBuilder()
        guard case .accepted(let id) = host.receive(peer.packet(.request)) else { return }
        let receptions = [2, 2, 0, 1, 2, 0xffff_fffc, 3].map { host.receive(peer.packet(.shutdown, flags: $0)) }
        let expected: [Reception] = [
            .peerShutdown(id, .send), .handled, .handled, .peerShutdown(id, .both), .handled, .handled, .handled,
        ]
        #expect(receptions == expected)
    }

    @Test("half-close: the other direction goes on")
    func otherDirectionGoesOn() throws {
        var pair = EndpointPair()
        let ends = try pair.establish()
        pair[.guest].shutdown(ends.guest, .send)
        _ = pair.settle()
        let mine = pair[.guest].nextPacket(ends.guest, offering: 10, capacity: 100)
        #expect(mine == nil)
        let theirs = pair.fetchPacket(.host, ends.host, offering: 10, capacity: 100) {
            [UInt8](repeating: 7, count: $0)
        }
        #expect(theirs != nil)
        let seen = pair.settle()
        #expect(seen.map(\.delivery.reception) == [.payload(ends.guest, .payload)])
    }

    @Test("a peer that receives no more is sent no more")
    func peerReceivesNoMore() throws {
        var pair = EndpointPair()
        let ends = try pair.establish(.seqpacket)
        pair[.guest].shutdown(ends.guest, .receive)
        _ = pair.settle()
        let error = #expect(throws: SocketError.self) {
            try pair[.host].beginRecord(ends.host, byteCount: 1, endOfRecord: false)
        }
        #expect(error == .brokenPipe)
        let sendable = pair[.host].sendableByteCount(ends.host)
        let packets = pair[.host].allControlPackets()
        #expect(sendable == 0 && packets.isEmpty)
    }

    @Test("payload after the peer's own SHUTDOWN, or after ours of receiving, is dropped but credited")
    func lateArrivalsAreCredited() throws {
        var host = Endpoint(.host())
        try host.listen(.stream, port: 1234, backlog: 10)
        for (index, localShutdown) in [false, true].enumerated() {
            let peer = PacketBuilder(port: UInt32(index))
            guard case .accepted(let id) = host.receive(peer.packet(.request)) else { return }
            if localShutdown { host.shutdown(id, .receive) } else { host.receive(peer.packet(.shutdown, flags: 2)) }
            let reception = host.receive(peer.packet(.readWrite, payloadByteCount: 5))
            #expect(reception == .dropped(.ending))
            let credit = host.snapshot(id)?.credit
            #expect(credit?.receivedByteCount == 0 && credit?.forwardedCount == 5)
        }
    }

    @Test("close: SHUTDOWN of both directions, and the peer's RST frees the slots on both sides")
    func closeIsAnswered() throws {
        var pair = EndpointPair()
        let ends = try pair.establish()
        pair[.guest].close(ends.guest, now: Self.start)
        let exists = pair[.guest].exists(ends.guest)
        #expect(!exists)
        var seen = pair.settle()
        #expect(seen.map(\.delivery.header.flags) == [3])
        #expect(seen.map(\.delivery.reception) == [.peerShutdown(ends.host, .both)])
        pair[.host].close(ends.host, now: Self.start)
        seen = pair.settle()
        #expect(seen.map(\.delivery.header.operation) == [.reset])
        #expect(seen.map(\.delivery.reception) == [.handled])
        let rest = (pair[.guest].connectionCount, pair[.host].connectionCount)
        let deadline = pair.nextDeadline
        #expect(rest == (0, 0) && deadline == nil)
    }

    @Test("close on both sides at once ends on both sides")
    func simultaneousClose() throws {
        var pair = EndpointPair()
        let ends = try pair.establish()
        pair[.guest].close(ends.guest, now: Self.start)
        pair[.host].close(ends.host, now: Self.start)
        let seen = pair.settle()
        #expect(seen.count <= 4)
        let rest = (pair[.guest].connectionCount, pair[.host].connectionCount)
        let deadline = pair.nextDeadline
        #expect(rest == (0, 0) && deadline == nil)
    }

    @Test("close: after eight seconds without RST the connection is reset")
    func closeTimesOut() throws {
        var pair = EndpointPair()
        let ends = try pair.establish()
        pair[.guest].close(ends.guest, now: Self.start)
        _ = pair.settle()
        let end = Self.start.advanced(byNanoseconds: 8_000_000_000)
        #expect(pair.nextDeadline == end)
        pair.advance(to: Instant(nanoseconds: end.nanoseconds - 1))
        let early = pair.expire(.guest)
        #expect(early == nil)
        pair.advance(to: end)
        guard case .closeTimedOut(let id) = pair.expire(.guest) else {
            Issue.record("no timeout")
            return
        }
        #expect(id.slot == ends.guest.slot)
        let seen = pair.settle()
        #expect(seen.map(\.delivery.reception) == [.reset(ends.host, .byPeer)])
        let rest = (pair[.guest].connectionCount, pair[.host].connectionCount)
        let deadline = pair.nextDeadline
        #expect(rest == (0, 0) && deadline == nil)
    }

    @Test("close: SHUTDOWN by SHUTDOWN, a peer that gives up both directions ends it before the time")
    func closingPeerShutsDown() throws {
        var host = Endpoint(.host())
        try host.listen(.stream, port: 1234, backlog: 1)
        let peer = PacketBuilder()
        guard case .accepted(let id) = host.receive(peer.packet(.request)) else { return }
        host.close(id, now: Self.start)
        _ = host.allControlPackets()
        host.receive(peer.packet(.shutdown, flags: 1))
        let before = host.connectionCount
        host.receive(peer.packet(.shutdown, flags: 2))
        let packets = host.allControlPackets()
        let after = host.connectionCount
        #expect(before == 1 && after == 0 && packets.map(\.operation) == [.reset])
    }

    @Test("close gives back what was not read, and what still comes, so that the peer's sender goes on")
    func closeReturnsCredit() throws {
        var pair = EndpointPair()
        let ends = try pair.establish()
        let size = 65_536
        for _ in 0..<4 {
            let packet = pair.fetchPacket(.guest, ends.guest, offering: size, capacity: size) {
                [UInt8](repeating: 0, count: $0)
            }
            #expect(packet != nil)
        }
        for _ in 0..<3 { _ = pair.deliver(to: .host) }
        pair[.host].close(ends.host, now: Self.start)
        _ = pair.settle()
        let snapshot = pair[.guest].snapshot(ends.guest)
        let free = snapshot?.credit.peerFreeByteCount ?? 0
        #expect(free >= 131_072)
    }

    @Test("abort: RST at once, and the peer knows")
    func abort() throws {
        var pair = EndpointPair()
        let ends = try pair.establish()
        pair[.guest].abort(ends.guest)
        let exists = pair[.guest].exists(ends.guest)
        #expect(!exists)
        let seen = pair.settle()
        #expect(seen.map(\.delivery.reception) == [.reset(ends.host, .byPeer)])
        let rest = (pair[.guest].connectionCount, pair[.host].connectionCount)
        #expect(rest == (0, 0))
    }

    @Test("transport reset: all connections are forgotten without a word, listeners stay")
    func transportReset() throws {
        var pair = EndpointPair()
        let first = try pair.establish()
        _ = try pair.establish(.seqpacket, port: 99)
        pair[.host].close(first.host, now: Self.start)
        pair[.host].receive(PacketBuilder(port: 5).packet(.readWrite))
        pair[.host].forgetAll()
        let packets = pair[.host].allControlPackets()
        let rest = (pair[.host].connectionCount, pair[.host].nextDeadline)
        #expect(packets.isEmpty && rest.0 == 0 && rest.1 == nil)
        let reception = pair[.host].receive(PacketBuilder().packet(.request))
        guard case .accepted = reception else {
            Issue.record("\(reception)")
            return
        }
    }
}
