// SPDX-License-Identifier: Apache-2.0
//
// What runs beside a test, and what a test waits for.

import Synchronization
import VsockCore
import VsockSystem
import VsockTestSupport
import VsockTransport

/// What a test cannot go on without.
struct TestFailure: Error, CustomStringConvertible {
    let description: String
    init(_ description: String) { self.description = description }
}

/// A closure on a thread of its own, and what it returned.
final class Background<Value: Sendable>: Sendable {
    private final class Outcome: Sendable {
        let result = Mutex<Result<Value, any Error>?>(nil)
    }

    private let thread: WorkerThread
    private let outcome = Outcome()

    init(_ body: @escaping @Sendable () throws -> Value) throws {
        let outcome = outcome
        thread = try WorkerThread(name: "host program") {
            let result = Result { try body() }
            outcome.result.withLock { $0 = result }
        }
    }

    /// Waits for it.
    func value() throws -> Value {
        thread.join()
        guard let result = outcome.result.withLock({ $0 }) else { throw TestFailure("no result") }
        return try result.get()
    }
}

/// Waits for something that another thread or the kernel does, without a descriptor that tells.
func eventually(_ condition: () throws -> Bool, file: String = #fileID, line: Int = #line) throws {
    let deadline = MonotonicClock.now() + testDeadline
    let never = try EventNotifier()
    while try !condition() {
        guard MonotonicClock.now() < deadline else {
            throw TestFailure("what \(file):\(line) waits for does not happen")
        }
        _ = try DescriptorIO.waitUntilReady(never.rawDescriptor, for: .readable, timeoutNanoseconds: 1_000_000)
    }
}
