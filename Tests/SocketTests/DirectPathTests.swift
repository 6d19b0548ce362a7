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
}
