// SPDX-License-Identifier: Apache-2.0
//
// To block a thread and to wake it costs two switches of the processor. So who is about to block looks for a moment
// whether that is needed: only where threads run side by side, and only as long as it helps.

import Synchronization
import VsockSystem

/// How often to look, learnt from whether it helped.
struct BriefSpin: ~Copyable {
    /// A few microseconds, about as long as it takes to be woken.
    private static let maximumCount = 4096
    /// What it costs to find out whether it helps again.
    private static let minimumCount = 16
    private static let isUseful = ResourceLimits.processorCount > 1

    /// Looks before giving up: many where that has helped, few where it has not. Threads may overwrite each other's.
    private let limit = Atomic<Int>(maximumCount)

    /// Looks until `isOver` or for too long; whether it is over.
    @inline(__always)
    func spin(until isOver: () -> Bool) -> Bool {
        guard Self.isUseful else { return isOver() }
        let count = limit.load(ordering: .relaxed)
        for _ in 0..<count where isOver() {
            limit.store(min(Self.maximumCount, count * 2), ordering: .relaxed)
            return true
        }
        limit.store(max(Self.minimumCount, count / 2), ordering: .relaxed)
        return false
    }
}
