// SPDX-License-Identifier: Apache-2.0

import Testing
import VsockSystem
import VsockTestSupport

@testable import VsockTransport

@Suite("Busy polling")
struct BusyPollingTests {
    @Test("the time grows with waits that it could have caught, up to the limit, and one beyond the limit ends it")
    func adapts() {
        var polling = BusyPolling(limit: 50_000)
        polling.expectsAnswer = true
        var budgets: [UInt64] = [polling.budget]
        for wait: UInt64 in [49_999, 3, 50_000, 20_000, 20_000, 50_001, 1] {
            polling.waited(nanoseconds: wait)
            budgets.append(polling.budget)
        }
        #expect(budgets == [0, 10_000, 20_000, 40_000, 50_000, 50_000, 0, 10_000])
    }

    @Test("without an answer to come, or with limit 0, there is no look")
    func off() {
        var polling = BusyPolling(limit: 50_000)
        polling.waited(nanoseconds: 1)
        #expect(polling.budget == 0)
        polling.expectsAnswer = true
        #expect(polling.budget == 10_000)
        var never = BusyPolling(limit: 0)
        never.expectsAnswer = true
        never.waited(nanoseconds: 0)
        #expect(never.budget == 0)
    }

    @Test("requests and answers alternate; streams, one way or both, do not; credit in between changes nothing")
    func alternation() {
        typealias Direction = TrafficAlternation.Direction
        let batches: [(payload: [Direction], isAlternating: Bool?)] = [
            ([.toHost], false), ([.toGuest], true), ([], nil), ([.toHost], true), ([.toGuest, .toGuest], true),
            ([.toGuest], false), ([.toGuest], false), ([.toHost, .toGuest], false), ([.toGuest], false),
            ([.toHost], true),
        ]
        var alternation = TrafficAlternation()
        for (index, batch) in batches.enumerated() {
            for direction in batch.payload { alternation.sawPayload(direction) }
            #expect(alternation.batchEnded() == batch.isAlternating, "batch \(index)")
        }
    }

    private final class Echo: PollHandler {
        let descriptor: Int32
        let loop: EventLoop
        init(_ descriptor: Int32, _ loop: EventLoop) {
            self.descriptor = descriptor
            self.loop = loop
        }

        override func ready(_ events: PollEvents) {
            loop.expectAnswer(true)
            withUnsafeTemporaryAllocation(byteCount: 1, alignment: 1) { byte in
                guard case .count(1) = DescriptorIO.receive(descriptor, into: byte) else { return loop.stop() }
                _ = DescriptorIO.send(descriptor, from: UnsafeRawBufferPointer(byte))
            }
        }
    }

    @Test("a loop that polls misses no event: ten thousand bytes come back one by one, and the end is seen")
    func missesNothing() throws {
        let pair = try UnixSocket.makePair(.stream, nonBlocking: true)
        let near = SharedFileDescriptor(pair.first)
        let far = SharedFileDescriptor(pair.second)
        let mailbox = try LoopMailbox()
        let thread = try WorkerThread(name: "echo") {
            guard let loop = try? EventLoop(mailbox: mailbox, busyPollNanoseconds: 50_000) else { return }
            let echo = Echo(far.rawValue, loop)
            guard let watch = try? loop.watch(far.rawValue, [.readable, .readHangUp], echo) else { return }
            loop.run()
            loop.unwatch(watch, far.rawValue)
        }
        var byte: UInt8 = 0
        for index in 0..<10_000 {
            byte = UInt8(truncatingIfNeeded: index)
            guard case .count(1) = withUnsafeBytes(of: &byte, { DescriptorIO.send(near.rawValue, from: $0) }) else {
                Issue.record("byte \(index) cannot be sent")
                break
            }
            _ = try DescriptorIO.waitUntilReady(near.rawValue, for: .readable, timeoutNanoseconds: testDeadline)
            var answer: UInt8 = 0
            let result = withUnsafeMutableBytes(of: &answer) { DescriptorIO.receive(near.rawValue, into: $0) }
            guard case .count(1) = result, answer == byte else {
                Issue.record("byte \(index) does not come back: \(result)")
                break
            }
        }
        try SocketOptions.shutdown(near.rawValue, .send)
        thread.join()
    }
}
