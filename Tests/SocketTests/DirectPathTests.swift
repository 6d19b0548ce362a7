// SPDX-License-Identifier: Apache-2.0
//
// Sockets of a loopback that change from their pipe to packets, with something in it and while it is in use.

import Synchronization
import Testing
import VsockSystem
import VsockTestSupport

import Vsock

@Suite("Direct path", .timeLimit(.minutes(10)))
struct DirectPathTests {
    @Test("what is unread when packets are watched is read before what comes in packets, and counts as unread")
    func settled() async throws {
        let transport = VsockTransport.isolatedLoopback()
        let ends = Ends(listening: transport, connecting: transport, cid: .local)
        let (client, server) = try await ends.pair(.seqpacket)
        try await client.send(pattern(100_000), endOfRecord: true)
        try await client.send([1, 2])
        try transport.setTap(SilentTap())
        #expect(server.unreadByteCount == 100_002)
        #expect(server.readiness == [.readable, .writable])
        let patient = SendOptions(doesNotWait: true)
        await expectBlocked { try await client.send(pattern(262_144 - 100_001), options: patient) }
        try await client.send(pattern(262_144 - 100_002), options: patient)
        await expectBlocked { try await client.send([3], options: patient) }
        var buffer = [UInt8](repeating: 0, count: 100_000)
        #expect(
            try await server.receive(into: &buffer)
                == ReceiveResult(count: 100_000, fullLength: 100_000, endOfRecord: true))
        #expect(buffer == pattern(100_000))
        #expect(try await server.next() == [1, 2])
        #expect(try await server.next(262_144) == pattern(262_144 - 100_002))
        try await client.send([3])
        #expect(try await server.next() == [3])
    }

    private func expectBlocked(_ body: () async throws -> Void) async {
        await #expect(throws: SocketError.wouldBlock) { try await body() }
    }

    @Test("who waits for a pipe goes on with packets", arguments: [SocketType.stream, .seqpacket])
    func waiters(type: SocketType) async throws {
        let transport = VsockTransport.isolatedLoopback()
        let ends = Ends(listening: transport, connecting: transport, cid: .local)
        let (client, server) = try await ends.pair(type)
        let options = ReceiveOptions(timeoutNanoseconds: testDeadline)
        async let answer = client.next(10, options)
        try await client.send(pattern(262_144))
        async let sent = client.send(pattern(200_000, seed: 2))
        // Both may wait by now, or not yet: either has to work.
        try transport.setTap(SilentTap())
        var buffer = [UInt8](repeating: 0, count: 300_000)
        var received: [UInt8] = []
        while received.count < 462_144 {
            let result = try await server.receive(into: &buffer, options: options)
            received += buffer[..<result.count]
        }
        #expect(received == pattern(262_144) + pattern(200_000, seed: 2))
        #expect(try await sent == 200_000)
        try await server.send([7])
        #expect(try await answer == [7])
    }

    @Test(
        "records of several threads come whole and in order, also when packets are watched meanwhile",
        arguments: [false, true])
    func threads(isWatched: Bool) async throws {
        let transport = VsockTransport.isolatedLoopback()
        let ends = Ends(listening: transport, connecting: transport, cid: .local)
        let (client, server) = try await ends.pair(.seqpacket)
        let senderCount = 2
        let recordCount = 4000
        let failures = Mutex<[String]>([])
        let receivedCount = Atomic<Int>(0)
        func start(_ name: String, _ body: @escaping @Sendable () throws -> Void) throws -> WorkerThread {
            try WorkerThread(name: name) {
                do { try body() } catch { failures.withLock { $0.append("\(name): \(error)") } }
            }
        }
        let patience = testDeadline
        var threads: [WorkerThread] = []
        for sender in 0..<senderCount {
            threads.append(
                try start("sender") {
                    for number in 0..<recordCount {
                        // Sender, number, and a body that both decide.
                        let size = number % 97 == 0 ? 60_000 : 8 + number % 200
                        var record = [UInt8](repeating: UInt8(truncatingIfNeeded: sender &+ number), count: size)
                        record[0] = UInt8(sender)
                        record[1] = UInt8(number & 0xff)
                        record[2] = UInt8(number >> 8)
                        try client.blocking.send(record, options: SendOptions(timeoutNanoseconds: patience))
                    }
                })
        }
        threads.append(
            try start("receiver") {
                var next = [Int](repeating: 0, count: senderCount)
                var buffer = [UInt8](repeating: 0, count: 65_536)
                for _ in 0..<(senderCount * recordCount) {
                    let result = try server.blocking.receive(
                        into: &buffer, options: ReceiveOptions(timeoutNanoseconds: patience))
                    receivedCount.add(1, ordering: .relaxed)
                    let sender = Int(buffer[0])
                    let number = Int(buffer[1]) | Int(buffer[2]) << 8
                    let fill = UInt8(truncatingIfNeeded: sender &+ number)
                    guard sender < senderCount, number == next[sender],
                        result.count == (number % 97 == 0 ? 60_000 : 8 + number % 200),
                        buffer[3..<result.count].allSatisfy({ $0 == fill })
                    else {
                        failures.withLock { $0.append("record \(number) of \(sender): \(result)") }
                        return
                    }
                    next[sender] += 1
                    if isWatched, receivedCount.load(ordering: .relaxed) == recordCount {
                        try transport.setTap(SilentTap())
                    }
                }
            })
        for thread in threads { thread.join() }
        #expect(failures.withLock { $0 } == [])
    }

    @Test("a stream between threads carries every byte, in pieces that fit the receiver's buffer or not")
    func threadsOfStream() async throws {
        let transport = VsockTransport.isolatedLoopback()
        let ends = Ends(listening: transport, connecting: transport, cid: .local)
        let (client, server) = try await ends.pair(.stream)
        let data = pattern(8_000_003)
        let patience = testDeadline
        let sending = try WorkerThread(name: "sender") {
            var start = 0
            for size in [1, 100, 5000, 70_000, 300_000].cycled() {
                guard start < data.count else { break }
                let end = min(start + size, data.count)
                let piece = Array(data[start..<end])
                let options = SendOptions(timeoutNanoseconds: patience)
                guard (try? client.blocking.send(piece, options: options)) == piece.count else { return }
                start = end
            }
            client.close()
        }
        let received = Mutex<[UInt8]>([])
        let receiving = try WorkerThread(name: "receiver") {
            var all: [UInt8] = []
            var buffer = [UInt8](repeating: 0, count: 50_000)
            let options = ReceiveOptions(timeoutNanoseconds: patience)
            while let result = try? server.blocking.receive(into: &buffer, options: options), !result.isEnd {
                all += buffer[..<result.count]
            }
            received.withLock { $0 = all }
        }
        sending.join()
        receiving.join()
        #expect(received.withLock { $0 } == data)
    }

    @Test("records between threads that are longer than the receiver's buffer are cut, and told")
    func threadsOfLongRecords() async throws {
        let transport = VsockTransport.isolatedLoopback()
        let ends = Ends(listening: transport, connecting: transport, cid: .local)
        let (client, server) = try await ends.pair(.seqpacket)
        let count = 2000
        let patience = testDeadline
        let sending = try WorkerThread(name: "sender") {
            for number in 0..<count {
                let record = [UInt8](repeating: UInt8(truncatingIfNeeded: number), count: 6000 + number)
                let options = SendOptions(endOfRecord: number % 3 == 0, timeoutNanoseconds: patience)
                guard (try? client.blocking.send(record, options: options)) != nil else { return }
            }
        }
        let failures = Mutex<[String]>([])
        let receiving = try WorkerThread(name: "receiver") {
            var buffer = [UInt8](repeating: 0, count: 7000)
            let options = ReceiveOptions(timeoutNanoseconds: patience)
            for number in 0..<count {
                let length = 6000 + number
                let expected = ReceiveResult(
                    count: min(length, 7000), fullLength: length, endOfRecord: number % 3 == 0, truncated: length > 7000
                )
                let result = try? server.blocking.receive(into: &buffer, options: options)
                let fill = UInt8(truncatingIfNeeded: number)
                guard result == expected, buffer[..<expected.count].allSatisfy({ $0 == fill }) else {
                    failures.withLock { $0.append("record \(number): \(String(describing: result))") }
                    return server.close()
                }
            }
        }
        sending.join()
        receiving.join()
        #expect(failures.withLock { $0 } == [])
    }
}

extension Array {
    /// The members again and again.
    fileprivate func cycled() -> some Sequence<Element> {
        sequence(state: 0) { index in
            defer { index = (index + 1) % count }
            return self[index]
        }
    }
}
