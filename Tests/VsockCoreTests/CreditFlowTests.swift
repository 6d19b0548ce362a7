// SPDX-License-Identifier: Apache-2.0
//
// virtio 1.3 "Socket Device / Buffer Space Management", seen from outside: what an endpoint says about its buffer, and
// what it does when its peer's is full.

import Testing
import VsockTestSupport
import VsockWire

@testable import VsockCore

@Suite("Credit on the wire")
struct CreditFlowTests {
    static func peer(_ type: SocketType = .stream, buffer: UInt32 = 262_144) -> PacketBuilder {
        var peer = PacketBuilder(type: type)
        peer.bufferAllocation = buffer
        return peer
    }

    static func host(buffer: UInt32 = 262_144) -> Endpoint {
        var configuration = EndpointConfiguration.host()
        configuration.bufferByteCount = buffer
        return Endpoint(configuration)
    }

    @Test("a peer that exceeds the buffer is reset", arguments: [101, 0x8000_0000, .max] as [UInt32])
    func exceeded(byteCount: UInt32) throws {
        var host = Self.host(buffer: 100)
        let id = try host.acceptConnection(from: Self.peer())
        let reception = host.receive(Self.peer().packet(.readWrite, payloadByteCount: byteCount))
        #expect(reception == .reset(id, .creditExceeded))
        let packets = host.allControlPackets()
        #expect(packets.map(\.operation) == [.reset])
    }

    @Test("every packet tells the buffer and what was consumed; data makes an update needless")
    func everyPacketCarriesCredit() throws {
        var host = Self.host(buffer: 100)
        let id = try host.acceptConnection(from: Self.peer())
        host.receive(Self.peer().packet(.readWrite, payloadByteCount: 40))
        host.consume(id, byteCount: 40)
        let packet = host.nextPacket(id, offering: 1, capacity: 10)
        #expect(packet?.header.bufferAllocation == 100 && packet?.header.forwardedCount == 40)
        host.receive(Self.peer().packet(.readWrite, payloadByteCount: 60))
        let packets = host.allControlPackets()
        #expect(packets.isEmpty)
    }

    @Test("space that the peer was not told of is told when the rest of a record uses up what it knows")
    func partialRecord() throws {
        var host = Self.host(buffer: 100)
        let peer = Self.peer(.seqpacket)
        let id = try host.acceptConnection(from: peer)
        host.receive(peer.packet(.readWrite, flags: 1, payloadByteCount: 40))
        host.consume(id, byteCount: 40)
        let early = host.allControlPackets()
        #expect(early.isEmpty)
        // 60 bytes of a record of 100: the reader takes none of them before the rest has come.
        host.receive(peer.packet(.readWrite, payloadByteCount: 60))
        let packets = host.allControlPackets()
        #expect(packets.map(\.operation) == [.creditUpdate] && packets.map(\.forwardedCount) == [40])
    }

    @Test("CREDIT_REQUEST is answered with the present state, as often as it comes")
    func requestIsAnswered() throws {
        var host = Self.host(buffer: 100)
        let id = try host.acceptConnection(from: Self.peer())
        host.receive(Self.peer().packet(.readWrite, payloadByteCount: 10))
        for consumed in 1...5 as ClosedRange<UInt32> {
            host.consume(id, byteCount: 1)
            host.receive(Self.peer().packet(.creditRequest))
            host.receive(Self.peer().packet(.creditRequest))
            let packets = host.allControlPackets()
            #expect(packets.map(\.operation) == [.creditUpdate] && packets.map(\.forwardedCount) == [consumed])
        }
    }

    @Test("a sender without credit asks once, and is called when there is some")
    func blockedSender() throws {
        var host = Self.host()
        var peer = Self.peer(buffer: 10)
        let id = try host.acceptConnection(from: peer)
        let first = host.nextPacket(id, offering: 100, capacity: 100)
        #expect(first?.header.payloadByteCount == 10)
        for _ in 0..<5 {
            let packet = host.nextPacket(id, offering: 90, capacity: 100)
            let sendable = host.sendableByteCount(id)
            #expect(packet == nil && sendable == 0)
        }
        let requests = host.allControlPackets()
        #expect(requests.map(\.operation) == [.creditRequest])
        // An answer without credit changes nothing.
        host.receive(peer.packet(.creditUpdate))
        let early = host.nextWritable()
        let silence = host.allControlPackets()
        #expect(early == nil && silence.isEmpty)
        peer.forwardedCount = 3
        host.receive(peer.packet(.creditUpdate))
        let writable = (host.nextWritable(), host.nextWritable())
        #expect(writable.0 == id && writable.1 == nil)
        let packet = host.nextPacket(id, offering: 90, capacity: 100)
        #expect(packet?.header.payloadByteCount == 3)
    }

    @Test("a sender that did not wait, or may no longer send, is not called")
    func notCalled() throws {
        var host = Self.host()
        var peer = Self.peer(buffer: 10)
        let id = try host.acceptConnection(from: peer)
        host.receive(peer.packet(.creditUpdate))
        var writable = host.nextWritable()
        #expect(writable == nil)
        _ = host.nextPacket(id, offering: 10, capacity: 10)
        _ = host.nextPacket(id, offering: 1, capacity: 10)
        peer.forwardedCount = 10
        host.receive(peer.packet(.creditUpdate))
        host.shutdown(id, .send)
        writable = host.nextWritable()
        #expect(writable == nil)
    }

    @Test("a peer that shrinks its buffer or lies about what it has read gets nothing, and the stack stands")
    func hostilePeer() throws {
        for (buffer, forwarded) in [(10, 0), (0, 0), (100, 101), (262_144, 0x8000_0000), (.max, 101)]
            as [(UInt32, UInt32)]
        {
            var host = Self.host()
            var peer = Self.peer(buffer: 100)
            let id = try host.acceptConnection(from: peer)
            let first = host.nextPacket(id, offering: 100, capacity: 100)
            #expect(first?.header.payloadByteCount == 100)
            peer.bufferAllocation = buffer
            peer.forwardedCount = forwarded
            host.receive(peer.packet(.creditUpdate))
            let packet = host.nextPacket(id, offering: 100, capacity: 100)
            #expect(packet == nil, "buf_alloc \(buffer), fwd_cnt \(forwarded)")
        }
    }
}

@Suite("Limit of packets in flight")
struct PacketLimitTests {
    /// Sends single bytes until the endpoint stops.
    static func sendBytes(_ host: inout Endpoint, _ id: ConnectionID) -> Int {
        var count = 0
        while count < 1000, host.nextPacket(id, offering: 1, capacity: 100) != nil { count += 1 }
        return count
    }

    @Test("small packets stop below what a Linux guest bears, long before the credit is used up")
    func smallPacketsStop() throws {
        var host = Endpoint(.host())
        var peer = PacketBuilder()
        let id = try host.acceptConnection(from: peer)
        let count = Self.sendBytes(&host, id)
        #expect(count == 409)
        let sendable = (host.sendableByteCount(id), host.sendablePacketCount(id))
        #expect(sendable == (0, 0))
        let requests = host.allControlPackets()
        #expect(requests.map(\.operation) == [.creditRequest])
        peer.forwardedCount = 409
        host.receive(peer.packet(.creditUpdate))
        let writable = host.nextWritable()
        #expect(writable == id)
        let again = Self.sendBytes(&host, id)
        #expect(again == 409)
    }

    @Test("half-way to the limit the peer is asked; one that reads on and answers never stops the sender")
    func askedHalfway() throws {
        var host = Endpoint(.host())
        var peer = PacketBuilder()
        let id = try host.acceptConnection(from: peer)
        var unanswered = 0
        for index in 1...5000 as ClosedRange<UInt32> {
            let packet = host.nextPacket(id, offering: 1, capacity: 100)
            try #require(packet != nil, "packet \(index)")
            let requests = host.allControlPackets()
            #expect(requests.allSatisfy { $0.operation == .creditRequest })
            unanswered += requests.count
            // The answer is on its way for 200 packets.
            guard unanswered > 0, index % 200 == 0 else { continue }
            peer.forwardedCount = index
            host.receive(peer.packet(.creditUpdate))
            unanswered = 0
        }
        let deadline = host.nextDeadline
        #expect(deadline == nil)
    }

    @Test("the peer is asked again every 100 ms: it may have read since, and see no reason to say so")
    func probe() throws {
        var host = Endpoint(.host())
        var peer = PacketBuilder()
        let id = try host.acceptConnection(from: peer)
        _ = Self.sendBytes(&host, id)
        _ = host.allControlPackets()
        host.receive(peer.packet(.creditUpdate))
        for round in 1...3 as ClosedRange<UInt64> {
            let deadline = host.nextDeadline
            #expect(deadline == Instant(nanoseconds: round * 100_000_000))
            let expiry = host.expire(now: Instant(nanoseconds: round * 100_000_000))
            let packets = host.allControlPackets()
            #expect(expiry == nil && packets.map(\.operation) == [.creditRequest])
        }
        peer.forwardedCount = 409
        host.receive(peer.packet(.creditUpdate))
        let writable = host.nextWritable()
        let expiry = host.expire(now: Instant(nanoseconds: 1_000_000_000))
        let packets = host.allControlPackets()
        let deadline = host.nextDeadline
        #expect(writable == id && expiry == nil && packets.isEmpty && deadline == nil)
    }

    @Test("asking again ends with the connection, and at the end of time")
    func probeEnds() throws {
        var host = Endpoint(.host())
        let peer = PacketBuilder()
        let id = try host.acceptConnection(from: peer)
        _ = Self.sendBytes(&host, id)
        _ = host.nextPacket(id, offering: 1, capacity: 1)
        host.receive(peer.packet(.reset))
        var deadline = host.nextDeadline
        #expect(deadline == nil)
        let second = try host.acceptConnection(from: peer)
        _ = Self.sendBytes(&host, second)
        _ = host.nextPacket(second, offering: 1, capacity: 1)
        let expiry = host.expire(now: Instant(nanoseconds: .max))
        deadline = host.nextDeadline
        #expect(expiry == nil && deadline == nil)
    }

    @Test("a full buffer is not asked about again and again: its reader will tell")
    func noProbeForBytes() throws {
        var host = Endpoint(.host())
        let id = try host.acceptConnection(from: PacketBuilder())
        while host.nextPacket(id, offering: 65_536, capacity: 65_536) != nil {}
        let deadline = host.nextDeadline
        #expect(deadline == nil)
    }
}
