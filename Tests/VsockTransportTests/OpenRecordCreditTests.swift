// SPDX-License-Identifier: Apache-2.0

import Testing
import VirtioQueue
import VsockSystem
import VsockTestSupport
import VsockWire

@testable import VsockTransport

@Suite("Credit for a record of RFC v5 that is not complete")
struct OpenRecordCreditTests {
    private static let transmit = VsockDevice.QueueIndex.transmit
    private static let packetByteCount = 64 * 1024
    /// Three packets of a record: more than half of the buffer.
    private static let recordByteCount = 3 * packetByteCount
    /// What exceeds half of the buffer, 128 KiB, of them.
    private static let excessByteCount = 64 * 1024

    /// A guest with a connection to a host program, which sends records packet by packet.
    private struct Flow {
        let device: TestDevice
        let guest: RingGuest
        let host: HostProgram
        let record = pattern(OpenRecordCreditTests.recordByteCount)
        let packets: [Descriptor]

        init() throws {
            device = try TestDevice { $0.seqpacket = .rfcV5 }
            guest = try RingGuest(device, seqpacket: false)
            let listener = try device.listen(.seqpacket, port: 5000)
            for _ in 0..<32 { try guest.post([64]) }
            try guest.send(guest.packet(.request, type: .seqpacket))
            host = try listener.take()
            #expect(try guest.next()?.header.operation == .response)
            _ = try guest.used(OpenRecordCreditTests.transmit)
            let guest = guest
            packets = stride(from: 0, to: record.count, by: OpenRecordCreditTests.packetByteCount).map {
                [record] start in
                let payload = record[start..<(start + OpenRecordCreditTests.packetByteCount)]
                return guest.place(
                    guest.packet(.readWrite, type: .seqpacket, payloadByteCount: payload.count).encoded + payload)
            }
        }

        func mark(_ operation: Operation, _ count: UInt32, byteCount: Int) throws {
            var payload = [UInt8](repeating: 0, count: SequenceHeader.byteCount)
            payload.withUnsafeMutableBytes {
                SequenceHeader(messageCount: count, messageByteCount: UInt32(byteCount)).write(to: $0)
            }
            try guest.send(
                guest.packet(operation, type: .seqpacket, payloadByteCount: payload.count), payload: payload)
            _ = try guest.used(OpenRecordCreditTests.transmit)
        }

        /// Begins a record, and sends the bytes of its first packets, or of all.
        func sendOpenRecord(_ count: UInt32, packetCount: Int = 3) throws {
            try mark(.sequenceBegin, count, byteCount: packetCount * OpenRecordCreditTests.packetByteCount)
            for packet in packets[..<packetCount] {
                guest.rings[OpenRecordCreditTests.transmit].submit([packet])
                guest.kick(OpenRecordCreditTests.transmit)
                _ = try guest.used(OpenRecordCreditTests.transmit)
            }
        }

        func endRecord(_ count: UInt32) throws { try mark(.sequenceEnd, count, byteCount: 0) }

        /// Waits until the guest has the credit of everything, once.
        func checkThatNothingIsHeld() throws {
            try eventually { try device.credit().unreadByteCount == 0 }
            let credit = try device.credit()
            #expect(credit.forwardedByteCount == credit.receivedByteCount)
            #expect(credit.consumedAheadByteCount == 0)
            #expect(credit.backlogByteCount == 0)
        }
    }

    @Test("what exceeds half of the buffer has its credit before the end, and nothing has it twice")
    func excess() throws {
        let flow = try Flow()
        for round in 0..<3 as Range<UInt32> {
            try flow.sendOpenRecord(2 * round)
            let credit = try flow.device.credit()
            #expect(credit.openRecordByteCount == Self.recordByteCount)
            #expect(credit.consumedAheadByteCount == Self.excessByteCount)
            #expect(credit.unreadByteCount == Self.recordByteCount - Self.excessByteCount)
            try flow.endRecord(2 * round + 1)
            #expect(try flow.host.receive() == flow.record)
            try flow.checkThatNothingIsHeld()
        }
    }

    @Test("a complete record that waits keeps what was consumed of it, and the open one behind it has its own")
    func waiting() throws {
        let flow = try Flow()
        var count: UInt32 = 0
        repeat {
            try flow.sendOpenRecord(2 * count)
            try flow.endRecord(2 * count + 1)
            count += 1
            try #require(count < 256, "the socket takes everything")
        } while try flow.device.credit().backlogByteCount == 0
        // The guest has credit for half of the buffer, and its markers need some, too.
        try flow.sendOpenRecord(2 * count, packetCount: 1)
        let credit = try flow.device.credit()
        let shortByteCount = Self.packetByteCount
        #expect(credit.backlogByteCount == Self.recordByteCount + shortByteCount)
        #expect(credit.consumedAheadByteCount == 0)
        #expect(credit.unreadByteCount == Self.recordByteCount - Self.excessByteCount + shortByteCount)
        try flow.endRecord(2 * count + 1)
        for _ in 0..<count { #expect(try flow.host.receive() == flow.record) }
        #expect(try flow.host.receive() == Array(flow.record[..<shortByteCount]))
        try flow.checkThatNothingIsHeld()
    }

    @Test("a record that is begun anew before its end is thrown away, and its credit returned")
    func discarded() throws {
        let flow = try Flow()
        try flow.sendOpenRecord(0)
        try flow.mark(.sequenceBegin, 2, byteCount: 0)
        try flow.checkThatNothingIsHeld()
        try flow.endRecord(3)
        try flow.sendOpenRecord(4)
        try flow.endRecord(5)
        // The empty one, which looks like an end of file.
        #expect(try flow.host.receive() == nil)
        #expect(try flow.host.receive() == flow.record)
        try flow.checkThatNothingIsHeld()
    }

    @Test("a host program that wants no more: what is held of the record counts as read")
    func shut() throws {
        let flow = try Flow()
        try flow.sendOpenRecord(0)
        try flow.host.shutdown(.receive)
        try flow.endRecord(1)
        var last: Packet?
        while last?.header.operation != .shutdown { last = try flow.guest.next() }
        try flow.checkThatNothingIsHeld()
    }
}
