// SPDX-License-Identifier: Apache-2.0
//
// Records of a host program that the device reads many at a time. To make it find many, they are sent while its thread
// is busy with sending them.

import Testing
import VsockCore
import VsockSystem
import VsockTestSupport
import VsockWire

@testable import VsockTransport

@Suite("Records read many at a time")
struct RecordBatchTests {
    private static let small = (0..<100).map { pattern($0 % 60 + 1, seed: $0) }

    @Test("they cross in order, each for itself", arguments: [64, 300, 4096])
    func smallRecords(receivePayloadByteCount: Int) throws {
        let device = try TestDevice()
        let guest = try device.guest { $0.receivePayloadByteCount = receivePayloadByteCount }
        let pair = try ConnectedPair(device, guest, .seqpacket, from: .guest)
        let records = Self.small + Self.small
        try pair.queue(records, device)
        for record in records { try #require(try pair.receive() == record) }
        #expect(try device.inspect { $0.host.sockets.compactMap { $0?.expectedRecordCount }.max() } ?? 0 > 1)
    }

    @Test("those that just fill a buffer each are not taken for the beginning of larger ones: they share calls, too")
    func fullBuffers() throws {
        let device = try TestDevice()
        let guest = try device.guest { $0.receivePayloadByteCount = 4096 }
        let pair = try ConnectedPair(device, guest, .seqpacket, from: .guest)
        let records = (0..<60).map { pattern(4096, seed: $0) }
        try pair.queue(records, device)
        for record in records { try #require(try pair.receive() == record) }
        // A socket is asked for as many as the guest has credit for, by what it expects of each.
        #expect(try device.inspect { $0.host.sockets.compactMap { $0?.expectedByteCount }.max() } ?? .max <= 8192)
    }

    @Test("one that is larger than the guest's buffers, in the middle, goes before those behind it")
    func largeRecords() throws {
        let device = try TestDevice()
        let guest = try device.guest { $0.receivePayloadByteCount = 1000 }
        let pair = try ConnectedPair(device, guest, .seqpacket, from: .guest)
        for byteCount in [1000, 1001, 2000, 5000, 70_000, 262_144] {
            let records = Self.small + [pattern(byteCount), pattern(byteCount, seed: 1)] + Self.small
            try pair.queue(records, device)
            for record in records { try #require(try pair.receive() == record, "with \(byteCount) bytes") }
        }
    }

    @Test("empty ones between others are left out, and end nothing")
    func emptyRecords() throws {
        let device = try TestDevice()
        let pair = try ConnectedPair(device, try device.guest(), .seqpacket, from: .guest)
        try pair.queue(Self.small + [[], [1], [], [], [2]] + Self.small + [[], []], device)
        for record in Self.small + [[1], [2]] + Self.small { try #require(try pair.receive() == record) }
        try eventually { try device.counters().emptyRecords == 5 }
        #expect(pair.socket.peerShutdown == [])
        try pair.host.send([3])
        #expect(try pair.receive() == [3])
    }

    @Test("the guest's credit ends among them: the rest follows when it has read", arguments: [60, 3000])
    func credit(byteCount: Int) throws {
        let device = try TestDevice()
        let pair = try ConnectedPair(device, try device.guest(), .seqpacket, from: .guest)
        let records = (0..<1000).map { pattern(byteCount + $0 % 7, seed: $0) }
        try pair.queue(records, device)
        // The guest's application has not read: its credit comes to an end.
        try eventually {
            try device.inspect { device in
                let ids = device.host.endpoint.connectionIDs
                return ids.contains { id in
                    let free = device.host.endpoint.snapshot(id)?.credit.peerFreeByteCount ?? .max
                    return free < byteCount || device.host.endpoint.sendablePacketCount(id) <= 0
                }
            }
        }
        #expect(try device.inspect { $0.host.endpoint.counters.transmittedPackets } < records.count)
        for record in records { try #require(try pair.receive() == record) }
    }

    @Test(
        "one that the guest's credit does not cover waits in the socket, unless it is larger than a quarter of the buffer",
        arguments: [(20_000, true), (65_536, true), (100_000, false)])
    func creditOfLargeRecords(byteCount: Int, waits: Bool) throws {
        let device = try TestDevice()
        let pair = try ConnectedPair(device, try device.guest(), .seqpacket, from: .guest)
        let records = (0..<40).map { pattern(byteCount, seed: $0) }
        let host = pair.host
        let writer = try Background { for record in records { try host.send(record) } }
        try eventually {
            try device.inspect { device in
                device.host.endpoint.connectionIDs.contains { id in
                    device.host.endpoint.snapshot(id)?.credit.peerFreeByteCount ?? .max < byteCount
                }
            }
        }
        for (index, record) in records.enumerated() {
            try #require(try pair.receive() == record, "record \(index)")
            guard waits else { continue }
            #expect(try device.inspect { $0.host.sockets.compactMap { $0?.stagedByteCount }.max() } == 0)
        }
        try writer.value()
    }

    @Test("the host program closes behind them: all arrive, then the end", arguments: [0, 9000])
    func close(lastByteCount: Int) throws {
        let device = try TestDevice()
        let pair = try ConnectedPair(device, try device.guest(), .seqpacket, from: .host)
        let records = Self.small + [pattern(lastByteCount)]
        try pair.queue(records, device, closes: true)
        #expect(try pair.socket.receiveRecordsToEnd() == records.filter { !$0.isEmpty })
    }

    @Test("one that is larger than the guest can take, in the middle, resets the connection, and only that")
    func oversized() throws {
        let device = try TestDevice()
        let guest = try device.guest()
        let other = try ConnectedPair(device, guest, .seqpacket, from: .guest, port: 1)
        let pair = try ConnectedPair(device, guest, .seqpacket, from: .guest, port: 2)
        try pair.queue(Self.small + [pattern(262_145)] + Self.small, device)
        try pair.waitForShutdown(.both)
        #expect(try device.counters().aborted == 1)
        try other.queue(Self.small, device)
        for record in Self.small { try #require(try other.receive() == record) }
    }

    @Test("the guest leaves among them")
    func guestLeaves() throws {
        let device = try TestDevice()
        let guest = try device.guest()
        let pair = try ConnectedPair(device, guest, .seqpacket, from: .guest)
        try pair.queue((0..<1000).map { pattern(3000, seed: $0) }, device)
        #expect(try pair.receive() == pattern(3000))
        pair.socket.close()
        try pair.host.waitForHangUp()
        try eventually { try device.connectionCount() == 0 }
    }

    @Test("random records from random bursts", arguments: [1, 2, 3])
    func random(seed: UInt64) throws {
        var random = PRNG(seed: seed)
        let device = try TestDevice()
        let guest = try device.guest { $0.receivePayloadByteCount = [80, 1000, 4096][Int(seed) % 3] }
        let pair = try ConnectedPair(device, guest, .seqpacket, from: .guest)
        let bursts = (0..<30).map { _ in
            (0..<random.within(1...80)).map { index in
                pattern(random.chance(percent: 5) ? random.within(0...20_000) : random.within(1...100), seed: index)
            }
        }
        let socket = pair.socket
        let expected = bursts.flatMap { $0 }.filter { !$0.isEmpty }
        let reader = try Background { try (0..<expected.count).map { _ in try socket.receive() } }
        for burst in bursts { try pair.queue(burst, device) }
        #expect(try reader.value() == expected, "seed \(seed)")
    }
}

extension ConnectedPair {
    /// Sends records on the device's thread, which finds them all when it looks.
    fileprivate func queue(_ records: [[UInt8]], _ device: TestDevice, closes: Bool = false) throws {
        let host = host
        let failure = try device.inspect { _ in
            do {
                for record in records { try host.send(record) }
                if closes { host.close() }
                return nil as String?
            } catch {
                return "\(error)"
            }
        }
        if let failure { throw TestFailure("the host program cannot send: \(failure)") }
    }
}
