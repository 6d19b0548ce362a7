// SPDX-License-Identifier: Apache-2.0
//
// The device half returns chains: virtio 1.3 "Split Virtqueues / The Virtqueue Used Ring" and "/ Used Buffer
// Notification Suppression".

extension DeviceQueue {
    /// Returns a chain, not yet visible to the driver.
    /// - Parameters:
    ///   - head: the chain's, as `next` gave it.
    ///   - writtenByteCount: bytes written to the start of the chain's writable part. 0 for a malformed chain.
    public mutating func addUsed(head: UInt16, writtenByteCount: UInt32) {
        // A driver that offers the same chain twice can make us return more chains than there are slots. Slots are
        // masked, so it only overwrites entries that it would have read.
        used.setElement(id: UInt32(head), byteCount: writtenByteCount, at: nextUsed)
        inflight?.addToBatch(head)
        nextUsed &+= 1
    }

    /// Makes all returned chains visible to the driver: one store of the index.
    public mutating func publishUsed() {
        guard nextUsed != publishedUsed else { return }
        used.releaseIndex(nextUsed)
        inflight?.endBatch(count: nextUsed &- publishedUsed, usedIndex: nextUsed)
        suppression.add(nextUsed &- publishedUsed)
        publishedUsed = nextUsed
    }

    /// Number of chains returned but not yet published.
    public var unpublishedCount: Int { Int(nextUsed &- publishedUsed) }

    /// Number of chains published since the last decision; counted up to 65,536.
    public var undecidedCount: Int { suppression.undecidedCount }

    /// Decides, for all chains published since the last decision, whether the driver wants a notification (vhost-user
    /// "call"). With event index the first decision that covers any chain is always `true`.
    public mutating func needsNotification() -> Bool {
        guard suppression.undecidedCount > 0 else { return false }
        notificationFence()
        if features.eventIndex {
            return suppression.decide(event: available.usedEvent, index: publishedUsed)
        }
        return suppression.decide(suppressed: available.flags & AvailableRing.noInterruptFlag != 0)
    }
}
