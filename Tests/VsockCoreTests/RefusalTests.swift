// SPDX-License-Identifier: Apache-2.0
//
// virtio 1.3 "Socket Device / Device Operation": what is answered with a reset, and what is not answered at all.

import Testing
import VsockCore
import VsockTestSupport
import VsockWire

@Suite("Refusals")
struct RefusalTests {
    /// Receives one packet at the host and returns the answers.
    static func answer(
        _ packet: PacketHeader, framing: RecordFraming = .standard, listening type: SocketType? = nil
    ) throws -> (reception: Reception, replies: [PacketHeader]) {
        var host = Endpoint(.host(framing))
        if let type { try host.listen(type, port: 1234, backlog: 1) }
        let reception = host.receive(packet)
        let replies = host.allControlPackets()
        let count = host.connectionCount
        #expect(count == 0)
        return (reception, replies)
    }

    @Test("no listener: RST at once, without credit", arguments: [SocketType.stream, .seqpacket])
    func noListener(type: SocketType) throws {
        let result = try Self.answer(PacketBuilder(type: type).packet(.request))
        #expect(result.reception == .dropped(.noListener))
        let expected = PacketHeader(
            sourceCID: 2, destinationCID: 3, sourcePort: 1234, destinationPort: 0x10000, type: type, operation: .reset)
        #expect(result.replies == [expected])
    }

    @Test("a listener of the other type: RST that repeats the type of the request")
    func wrongListenerType() throws {
        for (listening, asking) in [(SocketType.stream, SocketType.seqpacket), (.seqpacket, .stream)] {
            let result = try Self.answer(PacketBuilder(type: asking).packet(.request), listening: listening)
            #expect(result.reception == .dropped(.wrongType))
            #expect(result.replies.map(\.type) == [asking])
        }
    }

    @Test("an unknown type: RST that repeats it", arguments: [0, 3, 0x1234, 0xffff] as [UInt16])
    func unknownType(rawValue: UInt16) throws {
        let type = SocketType(rawValue: rawValue)
        for operation in [Operation.request, .readWrite, .shutdown] {
            let result = try Self.answer(PacketBuilder(type: type).packet(operation), listening: .stream)
            #expect(result.reception == .dropped(.wrongType))
            #expect(result.replies.map(\.type) == [type])
            #expect(result.replies.map(\.operation) == [.reset])
        }
    }

    @Test("seqpacket where the device has none: RST of type seqpacket")
    func seqpacketOff() throws {
        let result = try Self.answer(
            PacketBuilder(type: .seqpacket).packet(.request), framing: .none, listening: .seqpacket)
        #expect(result.reception == .dropped(.wrongType))
        #expect(result.replies.map(\.type) == [.seqpacket])
        var guest = Endpoint(.guest(.none))
        #expect(throws: SocketError.socketTypeNotSupported) {
            try guest.connect(.seqpacket, to: VsockAddress(cid: .host, port: 1), now: Instant(nanoseconds: 0))
        }
    }

    @Test("another destination: RST in its name", arguments: [0, 1, 3, 4, 0xffff_ffff, 1 << 32 | 2, .max] as [UInt64])
    func foreignDestination(cid: UInt64) throws {
        let result = try Self.answer(PacketBuilder(to: cid).packet(.request), listening: .stream)
        #expect(result.reception == .dropped(.foreignDestination))
        #expect(result.replies.map(\.sourceCID) == [cid])
        #expect(result.replies.map(\.destinationCID) == [3])
    }

    @Test("another source: silence", arguments: [0, 1, 2, 4, 0xffff_ffff, 1 << 32 | 3, .max] as [UInt64])
    func foreignSource(cid: UInt64) throws {
        let result = try Self.answer(PacketBuilder(from: cid).packet(.request), listening: .stream)
        #expect(result.reception == .dropped(.foreignSource))
        #expect(result.replies.isEmpty)
    }

    @Test("any source is welcome where no peer is configured, but not one with reserved bits")
    func anySource() throws {
        var host = Endpoint(EndpointConfiguration(localCID: .host, peerCID: nil, framing: .standard))
        try host.listen(.stream, port: 1234, backlog: 10)
        for cid in [3, 77, 0xffff_fffe] as [UInt64] {
            let reception = host.receive(PacketBuilder(from: cid).packet(.request))
            guard case .accepted(let id) = reception else {
                Issue.record("\(cid): \(reception)")
                continue
            }
            let peerCID = host.snapshot(id)?.peerCID
            #expect(peerCID.map(UInt64.init) == cid)
        }
        let reception = host.receive(PacketBuilder(from: 1 << 32 | 3).packet(.request))
        #expect(reception == .dropped(.foreignSource))
    }

    @Test("an RST is never answered, whatever is wrong with it")
    func resetIsNeverAnswered() throws {
        for builder in [
            PacketBuilder(), PacketBuilder(from: 99), PacketBuilder(to: 99), PacketBuilder(type: .seqpacket),
            PacketBuilder(type: SocketType(rawValue: 9)),
        ] {
            let result = try Self.answer(builder.packet(.reset), listening: .stream)
            #expect(result.replies.isEmpty)
        }
    }

    @Test("packets are counted as dropped")
    func dropsAreCounted() {
        var host = Endpoint(.host())
        for _ in 0..<3 { host.receive(PacketBuilder().packet(.request)) }
        host.receive(PacketBuilder(from: 99).packet(.request))
        let counters = host.counters
        #expect(counters.receivedPackets == 4 && counters.droppedPackets == 4 && counters.connectionsOpened == 0)
    }
}
