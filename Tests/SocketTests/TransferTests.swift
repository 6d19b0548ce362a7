// SPDX-License-Identifier: Apache-2.0
//
// Bytes and records cross every transport whole, in order and with their boundaries.

import Testing

@testable import Vsock
@testable import VsockTransport

@Suite("Transfer", .timeLimit(.minutes(10)))
struct TransferTests {
    @Test("a stream carries bytes both ways and its end", arguments: Setup.allCases)
    func stream(setup: Setup) async throws {
        let (client, server) = try await setup.make().pair(.stream)
        try await client.send([1, 2, 3])
        #expect(try await server.next() == [1, 2, 3])
        try await server.send([4])
        #expect(try await client.next() == [4])
        try client.shutdown(.send)
        #expect(try await server.waitForEnd())
        try await server.send([5, 6])
        #expect(try await client.next() == [5, 6])
        server.close()
        #expect(try await client.waitForEnd())
    }

    @Test("megabytes cross a stream in both directions at once", arguments: Setup.allCases)
    func bulk(setup: Setup) async throws {
        let (client, server) = try await setup.make().pair(.stream)
        let data = pattern(3_000_001)
        try await withThrowingTaskGroup(of: [UInt8].self) { group in
            for (sender, receiver) in [(client, server), (server, client)] {
                group.addTask {
                    try await sender.send(data)
                    return data
                }
                group.addTask {
                    try await receiver.next(data.count, ReceiveOptions(waitsForAll: true))
                }
            }
            for try await result in group { #expect(result == data) }
        }
    }

    @Test("records keep their boundaries and MSG_EOR", arguments: Setup.allCases)
    func records(setup: Setup) async throws {
        let (client, server) = try await setup.make().pair(.seqpacket)
        for index in 0..<7 { try await client.send([UInt8(index)], endOfRecord: index == 3) }
        client.close()
        var buffer = [UInt8](repeating: 0, count: 16)
        for index in 0..<7 {
            let result = try await server.receive(into: &buffer)
            #expect(result == ReceiveResult(count: 1, fullLength: 1, endOfRecord: index == 3))
            #expect(buffer[0] == UInt8(index))
        }
        #expect(try await server.waitForEnd())
    }

    @Test("a record longer than the buffer is cut, told, and the next one intact", arguments: Setup.allCases)
    func truncation(setup: Setup) async throws {
        let (client, server) = try await setup.make().pair(.seqpacket)
        let data = pattern(200_000)
        try await client.send(data)
        try await client.send([9, 9])
        var buffer = [UInt8](repeating: 0, count: 65536)
        let peeked = try await server.receive(into: &buffer, options: ReceiveOptions(peeks: true))
        let cut = ReceiveResult(count: 65536, fullLength: 200_000, truncated: true)
        #expect(peeked == cut)
        buffer = [UInt8](repeating: 0, count: 65536)
        #expect(try await server.receive(into: &buffer) == cut)
        #expect(buffer == Array(data[..<65536]))
        #expect(try await server.next() == [9, 9])
    }

    @Test("many small records cross without a pause", arguments: Setup.allCases)
    func smallRecords(setup: Setup) async throws {
        let (client, server) = try await setup.make().pair(.seqpacket)
        let count = 5000
        async let received = {
            var buffer = [UInt8](repeating: 0, count: 64)
            var intact = 0
            for index in 0..<count {
                let result = try await server.receive(into: &buffer)
                let expected = pattern(1 + index % 60, seed: index)
                if result.count == expected.count, Array(buffer[..<result.count]) == expected { intact += 1 }
            }
            return intact
        }()
        for index in 0..<count { try await client.send(pattern(1 + index % 60, seed: index)) }
        #expect(try await received == count)
    }

    @Test(
        "records of 16 MiB and 100 MiB cross 256 KiB buffers in rfc-v5: whole, or cut and told; memory stays bounded",
        arguments: [Setup.loopbackRFC, .deviceToDriverRFC, .driverToDeviceRFC])
    func largeRecords(setup: Setup) async throws {
        let (client, server) = try await setup.make().pair(.seqpacket)
        for (byteCount, capacity) in [(16 << 20, 16 << 20 + 1), (16 << 20, 65536), (100 << 20, 65536)] {
            let data = pattern(byteCount)
            async let sent = client.send(data, endOfRecord: true)
            var buffer = [UInt8](repeating: 0, count: capacity)
            let result = try await server.receive(into: &buffer)
            // `fullLength` is what recv(2) returns when MSG_TRUNC is asked for, `truncated` is MSG_TRUNC in its answer.
            let count = min(byteCount, capacity)
            #expect(
                result
                    == ReceiveResult(
                        count: count, fullLength: byteCount, endOfRecord: true, truncated: count < byteCount))
            #expect(Array(buffer[..<count]) == Array(data[..<count]))
            #expect(try await sent == byteCount)
            try await client.send([1, 2, 3])
            #expect(try await server.next() == [1, 2, 3])
        }
        // All that a socket may hold is in these: the ring, which keeps the size of the most it ever held, the start of
        // a record that a receive gave up on, and the end of one whose send has returned.
        for socket in [client, server] {
            let socket = try #require(socket.socket as? TableSocket)
            #expect(socket.queue.allocatedByteCount <= 262_144)
            #expect(socket.stash.isEmpty && socket.remainder.isEmpty)
        }
    }

    @Test("senders of one socket take turns: each record is whole", arguments: [Setup.loopbackRFC, .driverToDeviceRFC])
    func oneRecordAtATime(setup: Setup) async throws {
        let (client, server) = try await setup.make().pair(.seqpacket)
        let (senderCount, recordCount) = (4, 5)
        // More than the buffer: each waits for credit while it has its record under way.
        let byteCount = 300_000
        try await withThrowingTaskGroup(of: Void.self) { group in
            for sender in 0..<senderCount {
                let record = [UInt8](repeating: UInt8(sender), count: byteCount + sender)
                group.addTask { for _ in 0..<recordCount { try await client.send(record) } }
            }
            var counts = [Int](repeating: 0, count: senderCount)
            for _ in 0..<(senderCount * recordCount) {
                let record = try await server.next(byteCount + senderCount)
                let sender = record.count - byteCount
                try #require(counts.indices.contains(sender))
                counts[sender] += 1
                #expect(record.allSatisfy { $0 == UInt8(sender) })
            }
            #expect(counts.allSatisfy { $0 == recordCount })
            try await group.waitForAll()
        }
    }

    @Test(
        "a receive that gives up loses nothing of a large record", arguments: [Setup.loopbackRFC, .driverToDeviceRFC])
    func givingUp(setup: Setup) async throws {
        let (client, server) = try await setup.make().pair(.seqpacket)
        let data = pattern(1_000_000)
        async let sent = client.send(data)
        var buffer = [UInt8](repeating: 0, count: 1_000_000)
        var attempts = 0
        while true {
            do throws(SocketError) {
                let result = try await server.receive(into: &buffer, options: ReceiveOptions(doesNotWait: true))
                #expect(result.count == data.count)
                break
            } catch .wouldBlock {
                attempts += 1
                #expect(try await server.ready(.readable).contains(.readable))
            }
        }
        #expect(attempts > 0)
        #expect(buffer == data)
        #expect(try await sent == data.count)
    }

    @Test("an empty record is one in rfc-v5, and nothing in the standard framing", arguments: Setup.allCases)
    func emptyRecord(setup: Setup) async throws {
        let (client, server) = try await setup.make().pair(.seqpacket)
        try await client.send([])
        try await client.send([7])
        if setup.isRFC {
            var buffer = [UInt8](repeating: 0, count: 4)
            #expect(try await server.receive(into: &buffer) == ReceiveResult())
        }
        #expect(try await server.next() == [7])
    }
}
