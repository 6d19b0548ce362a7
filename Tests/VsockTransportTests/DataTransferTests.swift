// SPDX-License-Identifier: Apache-2.0
//
// Payload between a guest and host programs: bytes and records, both ways, whichever side connects.

import Testing
import VsockCore
import VsockSystem
import VsockTestSupport
import VsockTransport
import VsockWire

@Suite("Data between guest and host")
struct DataTransferTests {
    static let byteCounts = [1, 7, 44, 4096, 4097, 65536, 65537, 200_000, 300 * 1024]
    /// Up to what a default buffer holds.
    static let recordByteCounts = [1, 2, 4095, 4096, 4097, 65536, 65537, 100_000, 262_144]

    @Test("streams carry every byte in order, both ways at once", arguments: ConnectedPair.Initiator.allCases)
    func streams(initiator: ConnectedPair.Initiator) throws {
        let device = try TestDevice()
        let pair = try ConnectedPair(device, try device.guest(), .stream, from: initiator)
        for byteCount in Self.byteCounts {
            let toGuest = pattern(byteCount, seed: byteCount)
            let toHost = pattern(byteCount, seed: byteCount + 1)
            let host = pair.host
            let sender = try Background { try host.send(toGuest) }
            let receiver = try Background { try host.receive(exactly: byteCount) }
            try pair.send(toHost)
            #expect(try pair.receive(exactly: byteCount) == toGuest)
            #expect(try receiver.value() == toHost)
            try sender.value()
        }
    }

    @Test("records keep their boundaries, both ways at once", arguments: ConnectedPair.Initiator.allCases)
    func records(initiator: ConnectedPair.Initiator) throws {
        let device = try TestDevice()
        let pair = try ConnectedPair(device, try device.guest(), .seqpacket, from: initiator)
        for byteCount in Self.recordByteCounts {
            let toGuest = pattern(byteCount, seed: byteCount)
            let toHost = pattern(byteCount, seed: byteCount + 1)
            let host = pair.host
            let sender = try Background { try host.send(toGuest) }
            let receiver = try Background { try host.receive() }
            try pair.send(toHost)
            #expect(try pair.receive() == toGuest)
            #expect(try receiver.value() == toHost)
            try sender.value()
        }
    }

    @Test(
        "thousands of records of random sizes, in every framing",
        arguments: [SeqpacketMode.standard, .rfcV5], ConnectedPair.Initiator.allCases)
    func manyRecords(mode: SeqpacketMode, initiator: ConnectedPair.Initiator) throws {
        let device = try TestDevice { $0.seqpacket = mode }
        let pair = try ConnectedPair(device, try device.guest(), .seqpacket, from: initiator)
        let seed: UInt64 = 0x5eed_0002
        var random = PRNG(seed: seed)
        let sizes = (0..<2000).map { _ in
            random.chance(percent: 2) ? random.within(4096...60_000) : random.within(1...600)
        }
        let records = sizes.enumerated().map { pattern($1, seed: $0) }
        let host = pair.host
        let echo = try Background {
            while let record = try host.receive(upTo: 1 << 17) { try host.send(record) }
        }
        var returned = 0
        for (index, record) in records.enumerated() {
            try pair.send(record)
            // A few records stay under way.
            while returned + 8 < index + 1 || (index + 1 == records.count && returned <= index) {
                #expect(try pair.receive() == records[returned], "seed \(seed), record \(returned)")
                returned += 1
            }
        }
        try pair.socket.shutdown(.send)
        try echo.value()
    }

    @Test(
        "every way to set up queues carries the same data",
        arguments: [(16, 64, true), (16, 100, false), (256, 4096, false), (1024, 65536, true), (2, 3732, true)])
    func queues(size: Int, receivePayloadByteCount: Int, eventIndex: Bool) throws {
        let device = try TestDevice()
        let guest = try device.guest {
            $0.queueSize = size
            $0.receivePayloadByteCount = receivePayloadByteCount
            $0.acceptsEventIndex = eventIndex
        }
        for type in [UnixSocketType.stream, .seqpacket] {
            let pair = try ConnectedPair(device, guest, type, from: .guest)
            let data = pattern(20_000)
            let host = pair.host
            let echo = try Background {
                let bytes = type == .stream ? try host.receive(exactly: data.count) : try host.receive() ?? []
                try host.send(bytes)
            }
            try pair.send(data)
            let returned = try type == .stream ? pair.receive(exactly: data.count) : pair.receive()
            #expect(returned == data)
            try echo.value()
            pair.socket.close()
        }
    }

    @Test("records larger than every buffer flow in the framing of RFC v5", arguments: [262_145, 400_000])
    func largeRFCRecords(byteCount: Int) throws {
        let device = try TestDevice { $0.seqpacket = .rfcV5 }
        let pair = try ConnectedPair(device, try device.guest(), .seqpacket, from: .guest)
        let record = pattern(byteCount)
        let host = pair.host
        let echo = try Background {
            let received = try host.receive() ?? []
            try host.send(received)
            return received
        }
        try pair.send(record)
        #expect(try pair.receive() == record)
        #expect(try echo.value() == record)
    }

    @Test("MSG_EOR of the guest ends a record of the host's as any other does")
    func endOfRecordMark() throws {
        let device = try TestDevice()
        let pair = try ConnectedPair(device, try device.guest(), .seqpacket, from: .guest)
        try pair.socket.send([1, 2], endOfRecord: true)
        try pair.send([3])
        #expect(try pair.host.receive() == [1, 2])
        #expect(try pair.host.receive() == [3])
    }

    @Test(
        "descriptors that a host program sends along are closed; the bytes arrive",
        arguments: [
            UnixSocketType.stream, .seqpacket,
        ])
    func descriptors(type: UnixSocketType) throws {
        let device = try TestDevice()
        let pair = try ConnectedPair(device, try device.guest(), type, from: .guest)
        let (first, second) = try UnixSocket.makeSharedPair()
        let message: [UInt8] = [1, 2]
        for _ in 0..<3 {
            let sent = message.withUnsafeBytes {
                DescriptorIO.sendMessage(pair.host.rawDescriptor, from: $0, descriptors: [first.rawDescriptor])
            }
            #expect(sent == .count(2))
        }
        try pair.host.send([3])
        if type == .stream {
            #expect(try pair.receive(exactly: 7) == [1, 2, 1, 2, 1, 2, 3])
        } else {
            for record in [[1, 2], [1, 2], [1, 2], [3]] as [[UInt8]] { #expect(try pair.receive() == record) }
        }
        first.close()
        try second.waitForHangUp()
    }

    @Test("stream and seqpacket connections of one guest do not mix")
    func sideBySide() throws {
        let device = try TestDevice()
        let guest = try device.guest()
        let stream = try ConnectedPair(device, guest, .stream, from: .guest, port: 1)
        let records = try ConnectedPair(device, guest, .seqpacket, from: .host, port: 2)
        for round in 0..<50 {
            try stream.send(pattern(100, seed: round))
            try records.send(pattern(200, seed: round))
            try stream.host.send(pattern(300, seed: round))
            try records.host.send(pattern(400, seed: round))
            #expect(try stream.receive(exactly: 300) == pattern(300, seed: round))
            #expect(try records.receive() == pattern(400, seed: round))
            #expect(try stream.host.receive(exactly: 100) == pattern(100, seed: round))
            #expect(try records.host.receive() == pattern(200, seed: round))
        }
    }
}
