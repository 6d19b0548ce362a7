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

    @Test("SEQ_BEGIN with the length, RW, SEQ_END with length 0; markers of 8 bytes without flags, all of type 2")
    func record() throws {
        for endOfRecord in [false, true] {
            var host = Endpoint(.host(.rfcV5))
            let id = try host.acceptConnection(from: Self.peer())
            try host.beginRecord(id, byteCount: 100, endOfRecord: endOfRecord)
            let packets = Self.packets(&host, id, capacity: 30)
            let operations = packets.map(\.header.operation)
            #expect(operations == [.sequenceBegin, .readWrite, .readWrite, .readWrite, .readWrite, .sequenceEnd])
            #expect(packets.map(\.header.payloadByteCount) == [8, 30, 30, 30, 10, 8])
            // RW_EOR stands on every RW and on no marker.
            let mark: UInt32 = endOfRecord ? 1 : 0
            #expect(packets.map(\.header.flags) == [0, mark, mark, mark, mark, 0])
            #expect(packets.allSatisfy { $0.header.type == .seqpacket })
            #expect(Self.marker(packets.first) == SequenceHeader(messageCount: 0, messageByteCount: 100))
            #expect(Self.marker(packets.last) == SequenceHeader(messageCount: 1, messageByteCount: 0))
        }
    }

    @Test("every marker counts on by one, over all records of a connection")
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

    @Test("an empty record is two markers, and no RW is ever empty")
    func emptyRecord() throws {
        var host = Endpoint(.host(.rfcV5))
        let id = try host.acceptConnection(from: Self.peer())
        try host.beginRecord(id, byteCount: 0, endOfRecord: true)
        let packets = Self.packets(&host, id, capacity: 100)
        #expect(packets.map(\.header.operation) == [.sequenceBegin, .sequenceEnd])
        let isSending = host.isSendingRecord(id)
        #expect(!isSending)
    }

    @Test("markers cost 8 bytes of credit each: a record of L bytes costs L + 16")
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

    @Test("a marker is never split: it waits for 8 bytes of credit", arguments: 0...8 as ClosedRange<UInt32>)
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

    @Test("a marker waits for room for 8 bytes, too")
    func markerWaitsForRoom() throws {
        var host = Endpoint(.host(.rfcV5))
        let id = try host.acceptConnection(from: Self.peer())
        try host.beginRecord(id, byteCount: 5, endOfRecord: false)
        let tooSmall = host.nextPacket(id, offering: 0, capacity: 7)
        #expect(tooSmall == nil)
        let fits = host.nextPacket(id, offering: 0, capacity: 8)
        #expect(fits?.header.operation == .sequenceBegin)
    }

    @Test("a record larger than the peer's buffer flows through it, never beyond the credit")
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

    @Test("payload of a packet is at most 64 KiB, and a record at most 2^32 - 1")
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
}
