// SPDX-License-Identifier: Apache-2.0
//
// virtio 1.2+ "Socket Device / Message and Record Boundaries".

import Testing
import VsockTestSupport
import VsockWire

@testable import VsockCore

@Suite("Standard framing")
struct StandardFramingTests {
    /// A guest with a buffer of `buffer` bytes.
    static func peer(buffer: UInt32 = 262_144) -> PacketBuilder {
        var peer = PacketBuilder(type: .seqpacket)
        peer.bufferAllocation = buffer
        return peer
    }

    @Test("splits a record at any capacity; both flags stand on the last piece only", arguments: [false, true])
    func flagsStandOnTheLastPiece(endOfRecord: Bool) throws {
        for capacity in [1, 2, 3, 99, 100, 101, 1000] {
            var host = Endpoint(.host())
            let id = try host.acceptConnection(from: Self.peer())
            try host.beginRecord(id, byteCount: 100, endOfRecord: endOfRecord)
            var pieces: [OutgoingPacket] = []
            while let packet = host.nextPacket(id, offering: 0, capacity: capacity) { pieces.append(packet) }
            #expect(pieces.count == (100 + capacity - 1) / capacity)
            #expect(pieces.map(\.header.payloadByteCount).reduce(0, +) == 100)
            #expect(pieces.dropLast().allSatisfy { $0.header.flags == 0 })
            #expect(pieces.last?.header.flags == (endOfRecord ? 3 : 1))
            #expect(pieces.allSatisfy { $0.header.operation == .readWrite && $0.header.type == .seqpacket })
            #expect(pieces.allSatisfy { $0.payload == .application(Int($0.header.payloadByteCount)) })
            let isSending = host.isSendingRecord(id)
            #expect(!isSending)
        }
    }

    @Test("splits a record at 64 KiB, whatever the capacity")
    func largestPacket() throws {
        var host = Endpoint(.host())
        let id = try host.acceptConnection(from: Self.peer(buffer: 1 << 20))
        try host.beginRecord(id, byteCount: 200_000, endOfRecord: false)
        var byteCounts: [UInt32] = []
        while let packet = host.nextPacket(id, offering: 0, capacity: .max) {
            byteCounts.append(packet.header.payloadByteCount)
        }
        #expect(byteCounts == [65_536, 65_536, 65_536, 3392])
    }

    @Test("refuses a record larger than the peer's buffer with EMSGSIZE and sends nothing of it")
    func messageTooLong() throws {
        var host = Endpoint(.host())
        let id = try host.acceptConnection(from: Self.peer(buffer: 1000))
        let error = #expect(throws: SocketError.self) {
            try host.beginRecord(id, byteCount: 1001, endOfRecord: false)
        }
        #expect(error == .messageTooLong)
        let packet = host.nextPacket(id, offering: 0, capacity: 100)
        #expect(packet == nil)
        let maximum = host.maximumRecordByteCount(id)
        #expect(maximum == 1000)
        try host.beginRecord(id, byteCount: 1000, endOfRecord: false)
    }

    @Test("sends nothing for an empty record, as Linux")
    func emptyRecord() throws {
        var host = Endpoint(.host())
        let id = try host.acceptConnection(from: Self.peer())
        try host.beginRecord(id, byteCount: 0, endOfRecord: true)
        let packet = host.nextPacket(id, offering: 0, capacity: 100)
        let isSending = host.isSendingRecord(id)
        #expect(packet == nil && !isSending)
    }

    struct Arrival: Sendable {
        var flags: UInt32
        var endsRecord: Bool
        var hasMark: Bool
    }

    @Test(
        "takes the end of a record from the flags; EOR without EOM and unknown bits mean nothing",
        arguments: [
            Arrival(flags: 0, endsRecord: false, hasMark: false), Arrival(flags: 1, endsRecord: true, hasMark: false),
            Arrival(flags: 2, endsRecord: false, hasMark: false), Arrival(flags: 3, endsRecord: true, hasMark: true),
            Arrival(flags: 0xffff_fffc, endsRecord: false, hasMark: false),
            Arrival(flags: 0xffff_ffff, endsRecord: true, hasMark: true),
        ])
    func arrival(arrival: Arrival) throws {
        var host = Endpoint(.host())
        let peer = Self.peer()
        let id = try host.acceptConnection(from: peer)
        let reception = host.receive(peer.packet(.readWrite, flags: arrival.flags, payloadByteCount: 5))
        let verdict = PayloadVerdict(endsRecord: arrival.endsRecord, hasEndOfRecordMark: arrival.hasMark)
        #expect(reception == .payload(id, verdict))
        let credit = host.snapshot(id)?.credit
        #expect(credit?.receivedByteCount == 5)
    }

    @Test("ignores flags of packets without payload and of streams")
    func flagsWithoutMeaning() throws {
        var host = Endpoint(.host())
        let peer = Self.peer()
        _ = try host.acceptConnection(from: peer)
        let reception = host.receive(peer.packet(.readWrite, flags: 3))
        #expect(reception == .handled)
        let stream = PacketBuilder(from: 3, port: 99, to: 2, port: 5)
        let id = try host.acceptConnection(from: stream)
        let receptions = (
            host.receive(stream.packet(.readWrite, flags: 3, payloadByteCount: 1)),
            host.receive(stream.packet(.readWrite, flags: 3))
        )
        #expect(receptions.0 == .payload(id, .payload) && receptions.1 == .handled)
    }

    @Test("goes on with a record in tiny pieces beyond the limit of packets: its reader needs the rest")
    func tinyPieces() throws {
        var host = Endpoint(.host())
        var peer = Self.peer(buffer: 1000)
        let id = try host.acceptConnection(from: peer)
        try host.beginRecord(id, byteCount: 1000, endOfRecord: false)
        var count = 0
        while host.nextPacket(id, offering: 0, capacity: 1) != nil { count += 1 }
        try #require(count == 1000)
        // The next record waits until the peer has read, and then for nothing else.
        try host.beginRecord(id, byteCount: 10, endOfRecord: false)
        let blocked = host.nextPacket(id, offering: 0, capacity: 10)
        #expect(blocked == nil)
        peer.forwardedCount = 1000
        host.receive(peer.packet(.creditUpdate))
        let writable = host.nextWritable()
        #expect(writable == id)
        let packet = host.nextPacket(id, offering: 0, capacity: 10)
        #expect(packet?.header.flags == 1)
    }
}
