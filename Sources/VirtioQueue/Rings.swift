// SPDX-License-Identifier: Apache-2.0
//
// The two rings of a split queue: virtio 1.3 "Split Virtqueues / The Virtqueue Available Ring" and "/ The Virtqueue
// Used Ring".
//
//     available ring: flags u16, idx u16, ring[size] of u16,            used_event u16
//     used ring:      flags u16, idx u16, ring[size] of {id u32, len u32}, avail_event u16
//
// `idx` is the only field that publishes: it is stored with release and loaded with acquire order, and everything
// written before the store (entries, descriptors, payload) is visible after the load. Every other field is relaxed.
// Positions run freely from 0 to 65535; a position masked with size - 1 is a slot.

import Synchronization

/// The available ring: written by the driver, except that the device reads it.
package struct AvailableRing {
    /// VIRTQ_AVAIL_F_NO_INTERRUPT.
    package static let noInterruptFlag: UInt16 = 1

    package let base: UnsafeMutableRawPointer
    package let mask: UInt16

    package init(base: UnsafeMutableRawPointer, mask: UInt16) {
        self.base = base
        self.mask = mask
    }

    @inline(__always)
    package var flags: UInt16 {
        get { base.loadShared16(at: 0) }
        nonmutating set { base.storeShared16(newValue, at: 0) }
    }

    @inline(__always)
    package func acquireIndex() -> UInt16 {
        UInt16(littleEndian: base.sharedUInt16(at: 2).pointee.load(ordering: .acquiring))
    }

    @inline(__always)
    package func releaseIndex(_ index: UInt16) {
        base.sharedUInt16(at: 2).pointee.store(index.littleEndian, ordering: .releasing)
    }

    @inline(__always)
    package func head(at position: UInt16) -> UInt16 {
        base.loadShared16(at: 4 + 2 * Int(position & mask))
    }

    @inline(__always)
    package func setHead(_ head: UInt16, at position: UInt16) {
        base.storeShared16(head, at: 4 + 2 * Int(position & mask))
    }

    /// used_event: the driver wants to be notified when the used entry at this position is written.
    @inline(__always)
    package var usedEvent: UInt16 {
        get { base.loadShared16(at: 4 + 2 * (Int(mask) + 1)) }
        nonmutating set { base.storeShared16(newValue, at: 4 + 2 * (Int(mask) + 1)) }
    }
}

/// The used ring: written by the device, except that the driver reads it.
package struct UsedRing {
    /// VIRTQ_USED_F_NO_NOTIFY.
    package static let noNotifyFlag: UInt16 = 1

    package let base: UnsafeMutableRawPointer
    package let mask: UInt16

    package init(base: UnsafeMutableRawPointer, mask: UInt16) {
        self.base = base
        self.mask = mask
    }

    @inline(__always)
    package var flags: UInt16 {
        get { base.loadShared16(at: 0) }
        nonmutating set { base.storeShared16(newValue, at: 0) }
    }

    @inline(__always)
    package func acquireIndex() -> UInt16 {
        UInt16(littleEndian: base.sharedUInt16(at: 2).pointee.load(ordering: .acquiring))
    }

    @inline(__always)
    package func releaseIndex(_ index: UInt16) {
        base.sharedUInt16(at: 2).pointee.store(index.littleEndian, ordering: .releasing)
    }

    @inline(__always)
    package func element(at position: UInt16) -> (id: UInt32, byteCount: UInt32) {
        let offset = 4 + 8 * Int(position & mask)
        return (base.loadShared32(at: offset), base.loadShared32(at: offset + 4))
    }

    @inline(__always)
    package func setElement(id: UInt32, byteCount: UInt32, at position: UInt16) {
        let offset = 4 + 8 * Int(position & mask)
        base.storeShared32(id, at: offset)
        base.storeShared32(byteCount, at: offset + 4)
    }

    /// avail_event: the device wants to be notified when the available entry at this position is written.
    @inline(__always)
    package var availableEvent: UInt16 {
        get { base.loadShared16(at: 4 + 8 * (Int(mask) + 1)) }
        nonmutating set { base.storeShared16(newValue, at: 4 + 8 * (Int(mask) + 1)) }
    }
}
