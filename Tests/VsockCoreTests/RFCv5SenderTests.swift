// SPDX-License-Identifier: Apache-2.0
//
// The rfc-v5 framing, sending: what a peer that follows the series relies on.

import Testing
import VsockTestSupport
import VsockWire

@testable import VsockCore

@Suite("RFC v5 framing, sender")
struct RFCv5SenderTests {
    /// A guest with a buffer of `buffer` bytes.
    static func peer(buffer: UInt32 = 262_144) -> PacketBuilder {
        var peer = PacketBuilder(type: .seqpacket)
        peer.bufferAllocation = buffer
        return peer
    }

    static func packets(_ host: inout Endpoint, _ id: ConnectionID, capacity: Int) -> [OutgoingPacket] {
        var packets: [OutgoingPacket] = []
        while let packet = host.nextPacket(id, offering: 0, capacity: capacity) { packets.append(packet) }
        return packets
    }

    static func marker(_ packet: OutgoingPacket?) -> SequenceHeader? {
        if case .marker(let marker)? = packet?.payload { marker } else { nil }
    }

    /// The packets of a record of 100 bytes, of which 30 fit into a packet.
    static func record(endOfRecord: Bool) throws -> [OutgoingPacket] {
        var host = Endpoint(.host(.rfcV5))
        let id = try host.acceptConnection(from: peer())
        try host.beginRecord(id, byteCount: 100, endOfRecord: endOfRecord)
        return packets(&host, id, capacity: 30)
    }

    @Test("type 2 everywhere: every packet of a seqpacket connection, whatever its operation")
    func typeEverywhere() throws {
        var host = Endpoint(.host(.rfcV5))
        var peer = Self.peer()
        try host.listen(.seqpacket, port: peer.destinationPort, backlog: 1)
        host.receive(peer.packet(.request))
        var packets = host.allControlPackets()
        let accepted = try #require(host.connectionIDs.first)
        let now = Instant(nanoseconds: 0)
        let id = try host.connect(.seqpacket, to: VsockAddress(cid: 3, port: 5), from: 6, now: now)
        packets += host.allControlPackets()
        try host.beginRecord(accepted, byteCount: 100, endOfRecord: true)
        packets += Self.packets(&host, accepted, capacity: 1000).map(\.header)
        host.receive(peer.packet(.creditRequest))
        peer.bufferAllocation = 0
        host.receive(peer.packet(.creditUpdate))
        try host.beginRecord(accepted, byteCount: 1, endOfRecord: false)
        _ = host.nextPacket(accepted, offering: 1, capacity: 1000)
        packets += host.allControlPackets()
        host.close(accepted, now: now)
        host.abort(id)
        packets += host.allControlPackets()
        #expect(
            packets.map(\.operation) == [
                .response, .request, .sequenceBegin, .readWrite, .sequenceEnd, .creditUpdate, .creditRequest, .shutdown,
                .reset,
            ])
        #expect(packets.allSatisfy { $0.type == .seqpacket })
    }

    @Test("8-byte marker payload, without flags; SEQ_BEGIN has the record's length", arguments: [false, true])
    func markerPayload(endOfRecord: Bool) throws {
        let packets = try Self.record(endOfRecord: endOfRecord)
        #expect(
            packets.map(\.header.operation) == [
                .sequenceBegin, .readWrite, .readWrite, .readWrite, .readWrite, .sequenceEnd,
            ])
        #expect(packets.map(\.header.payloadByteCount) == [8, 30, 30, 30, 10, 8])
        #expect(packets.first?.header.flags == 0 && packets.last?.header.flags == 0)
        #expect(Self.marker(packets.first) == SequenceHeader(messageCount: 0, messageByteCount: 100))
    }

    @Test("END len 0", arguments: [false, true])
    func endLength(endOfRecord: Bool) throws {
        let end = try Self.record(endOfRecord: endOfRecord).last
        #expect(Self.marker(end) == SequenceHeader(messageCount: 1, messageByteCount: 0))
    }

    @Test("RW_EOR on all RW of a record sent with MSG_EOR, and on none of another", arguments: [false, true])
    func endOfRecordMark(endOfRecord: Bool) throws {
        let flags = try Self.record(endOfRecord: endOfRecord).dropFirst().dropLast().map(\.header.flags)
        #expect(flags == [UInt32](repeating: endOfRecord ? 1 : 0, count: 4))
    }

    @Test("counter per marker from 0, over all records of a connection")
    func counter() throws {
        var host = Endpoint(.host(.rfcV5))
        let id = try host.acceptConnection(from: Self.peer())
        var counts: [UInt32?] = []
        for byteCount in [1, 0, 5] {
            try host.beginRecord(id, byteCount: byteCount, endOfRecord: false)
            let packets = Self.packets(&host, id, capacity: 100).filter { $0.header.operation != .readWrite }
            counts += packets.map { Self.marker($0)?.messageCount }
        }
        #expect(counts == [0, 1, 2, 3, 4, 5])
    }

    @Test("no RW of 0 bytes: an empty record is two markers")
    func emptyRecord() throws {
        var host = Endpoint(.host(.rfcV5))
        let id = try host.acceptConnection(from: Self.peer())
        try host.beginRecord(id, byteCount: 0, endOfRecord: true)
        let packets = Self.packets(&host, id, capacity: 100)
        #expect(packets.map(\.header.operation) == [.sequenceBegin, .sequenceEnd])
        let isSending = host.isSendingRecord(id)
        #expect(!isSending)
    }

    @Test("markers cost credit: a record of L bytes costs L + 16")
    func markersCostCredit() throws {
        var host = Endpoint(.host(.rfcV5))
        let id = try host.acceptConnection(from: Self.peer(buffer: 1000))
        try host.beginRecord(id, byteCount: 100, endOfRecord: false)
        var free: [Int?] = [host.snapshot(id)?.credit.peerFreeByteCount]
        while host.nextPacket(id, offering: 0, capacity: 1000) != nil {
            free.append(host.snapshot(id)?.credit.peerFreeByteCount)
        }
        #expect(free == [1000, 992, 892, 884])
    }

    @Test("markers are never split: they wait for 8 bytes of credit", arguments: 0...8 as ClosedRange<UInt32>)
    func markerWaitsForCredit(credit: UInt32) throws {
        var host = Endpoint(.host(.rfcV5))
        var peer = Self.peer(buffer: credit)
        let id = try host.acceptConnection(from: peer)
        try host.beginRecord(id, byteCount: 5, endOfRecord: false)
        let packet = host.nextPacket(id, offering: 0, capacity: 1000)
        #expect((packet != nil) == (credit >= 8))
        guard packet == nil else { return }
        // The peer is asked once, and less than a marker's worth does not wake the sender.
        let requests = host.allControlPackets()
        #expect(requests.map(\.operation) == [.creditRequest])
        peer.bufferAllocation = 7
        host.receive(peer.packet(.creditUpdate))
        let early = host.nextWritable()
        let sendable = host.sendableByteCount(id)
        #expect(early == nil && sendable == 0)
        peer.bufferAllocation = 8
        host.receive(peer.packet(.creditUpdate))
        let writable = host.nextWritable()
        #expect(writable == id)
        let begin = host.nextPacket(id, offering: 0, capacity: 1000)
        #expect(begin?.header.operation == .sequenceBegin)
    }

    @Test("markers are never split: they wait for room for 8 bytes, too")
    func markerWaitsForRoom() throws {
        var host = Endpoint(.host(.rfcV5))
        let id = try host.acceptConnection(from: Self.peer())
        try host.beginRecord(id, byteCount: 5, endOfRecord: false)
        let tooSmall = host.nextPacket(id, offering: 0, capacity: 7)
        #expect(tooSmall == nil)
        let fits = host.nextPacket(id, offering: 0, capacity: 8)
        #expect(fits?.header.operation == .sequenceBegin)
    }

    @Test("never exceed credit: a record larger than the peer's buffer flows through it")
    func largeRecord() throws {
        var host = Endpoint(.host(.rfcV5))
        var peer = Self.peer(buffer: 100)
        let id = try host.acceptConnection(from: peer)
        #expect(throws: Never.self) { try host.beginRecord(id, byteCount: 1000, endOfRecord: false) }
        var sent = 0
        var rounds = 0
        while host.isSendingRecord(id), rounds < 100 {
            rounds += 1
            for packet in Self.packets(&host, id, capacity: 64) { sent += Int(packet.header.payloadByteCount) }
            #expect(sent - Int(peer.forwardedCount) <= 100)
            peer.forwardedCount = UInt32(sent)
            host.receive(peer.packet(.creditUpdate))
        }
        #expect(sent == 1016)
    }

    @Test("at most 64 KiB payload, and a record at most 2^32 - 1")
    func largestSizes() throws {
        var host = Endpoint(.host(.rfcV5))
        let id = try host.acceptConnection(from: Self.peer(buffer: .max))
        try host.beginRecord(id, byteCount: 100_000, endOfRecord: false)
        let byteCounts = Self.packets(&host, id, capacity: .max).map(\.header.payloadByteCount)
        #expect(byteCounts == [8, 65_536, 34_464, 8])
        let error = #expect(throws: SocketError.self) {
            try host.beginRecord(id, byteCount: 1 << 32, endOfRecord: false)
        }
        #expect(error == .messageTooLong)
        try host.beginRecord(id, byteCount: 1 << 32 - 1, endOfRecord: false)
        let begin = host.nextPacket(id, offering: 0, capacity: 100)
        #expect(Self.marker(begin)?.messageByteCount == .max)
    }

    @Test("goes on with a record in tiny pieces beyond the limit of packets: its reader may keep them until the end")
    func tinyPieces() throws {
        var host = Endpoint(.host(.rfcV5))
        let id = try host.acceptConnection(from: Self.peer(buffer: 1000))
        try host.beginRecord(id, byteCount: 100, endOfRecord: false)
        let packets = Self.packets(&host, id, capacity: 8)
        #expect(packets.map(\.header.operation).last == .sequenceEnd)
        #expect(packets.count == 15)
        // The next record waits until the peer has read.
        try host.beginRecord(id, byteCount: 100, endOfRecord: false)
        let next = host.nextPacket(id, offering: 0, capacity: 8)
        #expect(next == nil)
    }
}
