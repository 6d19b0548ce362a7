// SPDX-License-Identifier: Apache-2.0
//
// When a notification is needed, the same on both halves: virtio 1.3 "Split Virtqueues / Used Buffer Notification
// Suppression" and "/ Available Buffer Notification Suppression".
//
// The memory ordering. Each side does, in this order:
//
//     publisher:  store idx;          fence;  load event or flags     (notify?)
//     consumer:   store event/flags;  fence;  load idx                (sleep?)
//
// Release and acquire order do not keep a store before a later load of another location, so without the two full fences
// both sides could read the old values: the publisher would not notify, the consumer would sleep, and the entry would
// lie there for ever. With them at least one side sees the other's store. No other place in this target needs more than
// release and acquire.

import Synchronization

/// The full fence between a side's own store and its look at the other side's field; see above.
@inline(__always)
func notificationFence() {
    atomicMemoryFence(ordering: .sequentiallyConsistent)
}

/// What has been published since the last decision whether to notify.
package struct NotificationSuppression {
    /// Entries published since the last decision; stays at the limit from there on.
    private var pendingCount: UInt32 = 0
    /// Until the first decision nothing is known of what the other side has been told (the queue may be one that was
    /// stopped and started again), so that one is taken for the notification.
    private var hasDecided = false

    package init() {}

    /// Counts entries that have just been published.
    @inline(__always)
    package mutating func add(_ count: UInt16) {
        // From 65536 on the event is crossed wherever it is; there is no use in counting further.
        pendingCount = min(pendingCount &+ UInt32(count), 0x1_0000)
    }

    /// How many no decision has covered yet, up to 65536.
    @inline(__always)
    package var undecidedCount: Int { Int(pendingCount) }

    /// Decides by event index, for all entries before `index` that no decision has covered yet.
    @inline(__always)
    package mutating func decide(event: UInt16, index: UInt16) -> Bool {
        let count = pendingCount
        let isFirst = !hasDecided
        pendingCount = 0
        hasDecided = true
        if isFirst || count > 0xffff { return true }
        return Self.isCrossed(event: event, old: index &- UInt16(count), new: index)
    }

    /// Decides by flag.
    @inline(__always)
    package mutating func decide(suppressed: Bool) -> Bool {
        pendingCount = 0
        hasDecided = true
        return !suppressed
    }

    /// Whether the entry at position `event` is among those at `old..<new`, all positions modulo 65536
    /// (vring_need_event).
    @inline(__always)
    package static func isCrossed(event: UInt16, old: UInt16, new: UInt16) -> Bool {
        new &- event &- 1 < new &- old
    }
}
