// SPDX-License-Identifier: Apache-2.0

import VsockCore

/// When a driver is told that it has its packets back. It is in no hurry, unless its queue is full: what it has sent is on
/// its way. An interrupt for each few packets costs a guest more than the packets do (one that is emulated, fifty
/// microseconds), so while packets come one after another there is one in each interval, as network cards do it.
struct InterruptModeration {
    /// The driver of an emulated guest sends some twenty packets in this time.
    static let intervalNanoseconds: UInt64 = 250_000

    private var next = Instant(nanoseconds: 0)
    /// When an interrupt that was put off is due.
    private(set) var deadline: Instant?

    /// Whether to interrupt now for packets that the driver has not been told of: the last time is long ago, or they are a
    /// quarter of the queue, which might be full soon.
    mutating func isDue(for count: Int, of queueSize: Int, now: Instant) -> Bool {
        guard count < queueSize / 4, now < next else { return true }
        deadline = next
        return false
    }

    /// The driver has been told of all packets so far, or does not want to be.
    mutating func decided(_ isInterrupted: Bool, now: Instant) {
        deadline = nil
        if isInterrupted { next = now.advanced(byNanoseconds: Self.intervalNanoseconds) }
    }
}
