// SPDX-License-Identifier: Apache-2.0
//
// The driver half takes chains back: virtio 1.3 "Split Virtqueues / Receiving Used Buffers From The Device". The device
// is not trusted: a head that is not in flight or an impossible index is an error, a length is cut to what the chain
// can hold.

extension DriverQueue {
    /// Takes back the next chain that the device has returned; `nil` when there is none.
    ///
    /// `writtenByteCount` is never more than the chain's writable bytes: some devices report the bytes that they have
    /// read.
    /// - Throws: when the device's index or head is impossible. Nothing is taken back, and the queue should be stopped.
    public mutating func popUsed() throws(VirtqueueError) -> (token: Int, writtenByteCount: UInt32)? {
        if nextUsed == knownUsed {
            let index = used.acquireIndex()
            guard index != nextUsed else { return nil }
            guard index &- nextUsed <= chainCount else {
                throw .usedIndexJump(next: nextUsed, index: index)
            }
            knownUsed = index
        }
        let element = used.element(at: nextUsed)
        guard element.id < UInt32(size), slots[Int(element.id)].descriptorCount > 0 else {
            throw .unknownUsedHead(element.id)
        }
        let head = UInt16(element.id)
        let slot = slots[Int(head)]
        release(head: head, descriptorCount: slot.descriptorCount)
        nextUsed &+= 1
        return (slot.token, min(element.byteCount, slot.writableByteCount))
    }

    /// Tells the device that interrupts are not needed for now: the driver will look at the ring by itself. Only a
    /// hint.
    public mutating func disableInterrupts() {
        // With event index used_event stays where it is, behind what the device returns from now on.
        if !features.eventIndex {
            available.flags = AvailableRing.noInterruptFlag
        }
    }

    /// Asks the device for an interrupt on the next chain returned. `true`: there is one already, perhaps without an
    /// interrupt; go on with `popUsed`.
    public mutating func enableInterrupts() -> Bool {
        if features.eventIndex {
            available.usedEvent = nextUsed
        } else {
            available.flags = 0
        }
        notificationFence()
        return used.acquireIndex() != nextUsed
    }

    /// Puts a chain's descriptors at the front of the free list: the ones used last are the warmest.
    private mutating func release(head: UInt16, descriptorCount: UInt16) {
        var last = Int(head)
        for _ in 1..<descriptorCount {
            last = Int(slots[last].link)
        }
        slots[last].link = freeHead
        slots[Int(head)].descriptorCount = 0
        freeHead = head
        freeCount += descriptorCount
        chainCount -= 1
    }
}
