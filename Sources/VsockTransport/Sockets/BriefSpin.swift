// SPDX-License-Identifier: Apache-2.0
//
// To block a thread and to wake it costs two switches of the processor, and the other side is kept waiting meanwhile. So
// who is about to block looks for a moment whether that is needed: only where threads run side by side, and only as long
// as it helps.

import Synchronization
import VsockSystem

/// How often to look, learnt from whether it helped.
struct BriefSpin: ~Copyable {
    /// Looks where they have not helped: what it costs to find out that the other side is just there.
    private static let minimumCount = 16
    /// So often it is tried again with all looks. Two sides that both sleep too early never find out otherwise: each
    /// keeps the other waiting for as long as it takes to be woken.
    private static let failureLimit = 256
    private static let isUseful = ResourceLimits.processorCount > 1

    private let maximumCount: Int
    // Threads may overwrite each other's.
    private let limit: Atomic<Int>
    private let failureCount = Atomic<Int>(0)

    /// At most so many looks, of half a nanosecond or more; the default takes about as long as to be woken.
    init(maximumCount: Int = 16_384) {
        self.maximumCount = maximumCount
        limit = Atomic(maximumCount)
    }

    /// Whether it has helped lately, or is to be tried again.
    var isPromising: Bool { limit.load(ordering: .relaxed) == maximumCount }

    /// Looks until `isOver` or for too long; whether it is over.
    @inline(__always)
    func spin(until isOver: () -> Bool) -> Bool {
        guard Self.isUseful else { return isOver() }
        let count = limit.load(ordering: .relaxed)
        for _ in 0..<count where isOver() {
            if count < maximumCount { limit.store(min(maximumCount, count * 2), ordering: .relaxed) }
            return true
        }
        fail(count)
        return false
    }

    private func fail(_ count: Int) {
        let failures = failureCount.load(ordering: .relaxed) + 1
        failureCount.store(failures % Self.failureLimit, ordering: .relaxed)
        limit.store(
            failures == Self.failureLimit ? maximumCount : max(Self.minimumCount, count / 2), ordering: .relaxed)
    }
}
