// SPDX-License-Identifier: Apache-2.0
//
// How a thread says that it has begun, or why it cannot, to the one that started it.

import Synchronization
import VsockSystem

/// Hands the outcome of a start to the thread that waits for it.
final class StartSignal: Sendable {
    private let notifier: EventNotifier
    private let failure = Mutex<String?>(nil)

    init() throws(SystemCallError) { notifier = try EventNotifier() }

    /// Says that the thread has begun, or why not.
    func signal(_ failure: String?) {
        self.failure.withLock { $0 = failure }
        notifier.signal()
    }

    /// Blocks until it has been said.
    func wait() -> String? {
        _ = try? DescriptorIO.waitUntilReady(notifier.rawDescriptor, for: .readable, timeoutNanoseconds: nil)
        return failure.withLock { $0 }
    }
}
