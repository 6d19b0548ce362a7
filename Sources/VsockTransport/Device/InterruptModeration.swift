// SPDX-License-Identifier: Apache-2.0

import VsockCore

/// When a driver is told that it has its packets back. As long as it sends on it is in no hurry, unless its queue is full.
/// An interrupt for each few packets costs a guest more than the packets do (one that is emulated, fifty microseconds), so
/// while packets come one after another there is one in each interval, as network cards do it. A guest that sends nothing
/// until it has been told, such as one that waits for the end of each MSG_ZEROCOPY, is told at once from then on.
struct InterruptModeration {
    /// The driver of an emulated guest sends some thirty packets in this time, a quarter of QEMU's queue.
    static let intervalNanoseconds: UInt64 = 250_000
    /// A guest that has sent nothing for so long when an interrupt is due has waited for it.
    static let silenceNanoseconds = intervalNanoseconds / 2
    /// Batches of such a guest, until an interrupt is put off again.
    static let promptBatchCount = 256

    private var next = Instant(nanoseconds: 0)
    /// When an interrupt that was put off is due.
    private(set) var deadline: Instant?
    /// Packets that the driver has not been told of, and when the last of them came.
    private var waitingCount = 0
    private var lastTime = Instant(nanoseconds: 0)
    private var promptBatchesLeft = 0

    /// Whether to interrupt now for `count` packets that the driver has not been told of: the last time is long ago, or
    /// they are `limit`, with which the queue might be full soon.
    mutating func isDue(for count: Int, limit: Int, now: Instant) -> Bool {
        if count > waitingCount {
            waitingCount = count
            lastTime = now
        }
        if let deadline, now >= deadline, now >= lastTime.advanced(byNanoseconds: Self.silenceNanoseconds) {
            promptBatchesLeft = Self.promptBatchCount
        }
        if promptBatchesLeft > 0 {
            promptBatchesLeft -= 1
            return true
        }
        guard count < limit, now < next else { return true }
        deadline = next
        return false
    }

    /// The driver has been told of all packets so far, or does not want to be.
    mutating func decided(_ isInterrupted: Bool, now: Instant) {
        deadline = nil
        waitingCount = 0
        if isInterrupted { next = now.advanced(byNanoseconds: Self.intervalNanoseconds) }
    }
}
