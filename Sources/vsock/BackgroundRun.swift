// SPDX-License-Identifier: Apache-2.0

import Synchronization
import VsockSystem

/// Work on a thread of its own, whose failure is the caller's.
final class BackgroundRun: Sendable {
    private let failure: FailureBox
    private let thread: WorkerThread

    private final class FailureBox: Sendable {
        let value = Mutex<(any Error)?>(nil)
    }

    init(name: String = "background", _ body: @escaping @Sendable () throws -> Void) throws(SystemCallError) {
        let failure = FailureBox()
        self.failure = failure
        thread = try WorkerThread(name: name) {
            do {
                try body()
            } catch {
                failure.value.withLock { $0 = error }
            }
        }
    }

    /// Waits for the end; throws what the work threw.
    func wait() throws {
        thread.join()
        if let error = failure.value.withLock({ $0 }) { throw error }
    }
}
