// SPDX-License-Identifier: Apache-2.0
//
// Calls with MSG_DONTWAIT take packets from the rings themselves: see PolledPackets.

import Testing
import VirtioQueue
import VsockSystem
import VsockTestSupport

@testable import Vsock
@testable import VsockTransport

@Suite("Polling", .timeLimit(.minutes(10)))
struct PollingTests {
    private static let setups = Setup.allCases.filter { !$0.isLoopback }
    private static let receives = ReceiveOptions(doesNotWait: true)
    private static let sends = SendOptions(doesNotWait: true)

    @Test("what was sent before is received by a call that does not wait", arguments: setups)
    func withoutWaiting(setup: Setup) async throws {
        for type in [SocketType.stream, .seqpacket] {
            let (client, server) = try await setup.make().pair(type)
            for round in 0..<200 {
                for (sender, receiver) in [(client, server), (server, client)] {
                    let message = pattern(1 + round * 7, seed: round)
                    try await sender.send(message, options: Self.sends)
                    #expect(try await receiver.next(4096, Self.receives) == message)
                }
            }
            await #expect(throws: SocketError.wouldBlock) { try await client.next(16, Self.receives) }
        }
    }

    @Test("messages of all sizes cross whole and in order, whatever the buffers", arguments: setups)
    func sizes(setup: Setup) async throws {
        let seed: UInt64 = 21
        var random = PRNG(seed: seed)
        let (client, server) = try await setup.make().pair(.stream)
        let content = pattern(6_000_000)
        var (sent, received) = (0, [UInt8]())
        let deadline = MonotonicClock.now() + testDeadline
        while received.count < content.count {
            try #require(MonotonicClock.now() < deadline, "\(received.count) bytes have come, seed \(seed)")
            if sent < content.count, Bool.random(using: &random) {
                let piece = content[sent..<min(content.count, sent + Int.random(in: 1...200_000, using: &random))]
                do throws(SocketError) {
                    sent += try await client.send(Array(piece), options: Self.sends)
                } catch {
                    try #require(error == .wouldBlock)
                }
            }
            do {
                received += try await server.next(Int.random(in: 1...100_000, using: &random), Self.receives)
            } catch let error as SocketError {
                try #require(error == .wouldBlock)
            }
        }
        #expect(received == content, "seed \(seed)")
    }

    @Test("records keep order, marks and boundaries when they come alone, several at once or cut", arguments: setups)
    func records(setup: Setup) async throws {
        let seed: UInt64 = 22
        var random = PRNG(seed: seed)
        let (client, server) = try await setup.make().pair(.seqpacket)
        for round in 0..<300 {
            let records = (0..<Int.random(in: 1...5, using: &random)).map { index in
                pattern(Int.random(in: 1...9000, using: &random), seed: round * 8 + index)
            }
            for (index, record) in records.enumerated() {
                try await client.send(
                    record, options: SendOptions(endOfRecord: index % 2 == 1, timeoutNanoseconds: testDeadline))
            }
            for (index, record) in records.enumerated() {
                var buffer = [UInt8](repeating: 0, count: Int.random(in: 1...9000, using: &random))
                let result = try await server.receive(into: &buffer, options: Self.receives)
                let count = min(buffer.count, record.count)
                #expect(
                    result
                        == ReceiveResult(
                            count: count, fullLength: record.count, endOfRecord: index % 2 == 1,
                            truncated: count < record.count), "seed \(seed), round \(round)")
                #expect(buffer[..<count] == record[..<count], "seed \(seed), round \(round)")
            }
        }
    }

    @Test("a look leaves what it has seen", arguments: setups)
    func peek(setup: Setup) async throws {
        for type in [SocketType.stream, .seqpacket] {
            let (client, server) = try await setup.make().pair(type)
            for round in 0..<20 {
                try await client.send([1, 2, UInt8(round)], options: Self.sends)
                let peeks = ReceiveOptions(peeks: true, doesNotWait: true)
                #expect(try await server.next(16, peeks) == [1, 2, UInt8(round)])
                #expect(try await server.next(16, Self.receives) == [1, 2, UInt8(round)])
            }
        }
    }

    @Test("after polling, calls that wait are woken; so is poll(2)", arguments: setups)
    func backToWaiting(setup: Setup) async throws {
        let (client, server) = try await setup.make().pair(.stream)
        for round in 0..<20 {
            for _ in 0..<(2 * PolledPackets.startCount) {
                try await client.send([1], options: Self.sends)
                #expect(try await server.next(16, Self.receives) == [1])
            }
            let waits = Task {
                if round % 2 == 0 { #expect(try await server.ready(.readable).contains(.readable)) }
                return try await server.next(16, ReceiveOptions(timeoutNanoseconds: testDeadline))
            }
            try await client.send([2], options: Self.sends)
            #expect(try await waits.value == [2])
        }
    }

    @Test("a peer that goes while it is polled is noticed", arguments: setups)
    func end(setup: Setup) async throws {
        for type in [SocketType.stream, .seqpacket] {
            let (client, server) = try await setup.make().pair(type)
            for _ in 0..<(2 * PolledPackets.startCount) {
                try await client.send([1], options: Self.sends)
                #expect(try await server.next(16, Self.receives) == [1])
            }
            try await client.send([3], options: Self.sends)
            client.close()
            #expect(try await server.next(16, Self.receives) == [3])
            #expect(try await server.waitForEnd())
        }
    }

    // MARK: Parts

    @Test("callers take over after so many finds in a row, until one finds nothing or none looks")
    func takingOver() {
        var packets = PolledPackets()
        for _ in 1..<PolledPackets.startCount { packets.found() }
        #expect(!packets.isPolled && !packets.look())
        // The look found that nobody polls: the count begins again.
        for _ in 1..<PolledPackets.startCount { packets.found() }
        #expect(!packets.isPolled)
        packets.found()
        #expect(packets.isPolled && packets.look())
        #expect(!packets.look() && !packets.isPolled)
        for _ in 0..<PolledPackets.startCount { packets.found() }
        packets.end()
        #expect(!packets.isPolled)
    }

    @Test("a buffer takes of a stream what fits, and of records one")
    func buffer() {
        var bytes = [UInt8](repeating: 0, count: 5)
        bytes.withUnsafeMutableBytes { bytes in
            var buffer = PolledBuffer(bytes)
            let counts = [[UInt8]([1, 2, 3]), [4, 5, 6]].map { $0.withUnsafeBytes { buffer.append($0) } }
            #expect(counts == [3, 2] && buffer.byteCount == 5)
        }
        var source: [UInt8] = [1, 2, 3, 4, 5, 6, 7]
        source.withUnsafeMutableBytes { source in
            let base = source.baseAddress
            bytes.withUnsafeMutableBytes { bytes in
                var buffer = PolledBuffer(bytes)
                let segments = [(0, 4), (4, 3)].compactMap { (start, count) in
                    base.map { MemorySegment(base: $0 + start, count: count) }
                }
                segments.withUnsafeBufferPointer { segments in
                    let isFilled = buffer.fill(record: segments, hasEndOfRecordMark: true)
                    let isFilledAgain = buffer.fill(record: segments, hasEndOfRecordMark: false)
                    #expect(isFilled && !isFilledAgain)
                }
                #expect(buffer.record == ReceiveResult(count: 5, fullLength: 7, endOfRecord: true, truncated: true))
            }
        }
        #expect(bytes == [1, 2, 3, 4, 5])
    }
}
