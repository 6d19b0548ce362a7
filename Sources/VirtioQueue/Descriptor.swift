// SPDX-License-Identifier: Apache-2.0
//
// virtio 1.3 "Split Virtqueues / The Virtqueue Descriptor Table" (struct virtq_desc):
//
//     0       8     12      14     16
//     | addr  | len | flags | next |
//
// A descriptor is copied out of shared memory once, and only the copy is looked at.

/// A copy of one descriptor.
package struct Descriptor {
    package static let byteCount = 16

    // virtio 1.3, struct virtq_desc, flags. Other bits are reserved and ignored.
    package static let nextFlag: UInt16 = 1
    package static let writeFlag: UInt16 = 2
    package static let indirectFlag: UInt16 = 4

    package var address: UInt64
    package var byteCount: UInt32
    package var flags: UInt16
    package var next: UInt16

    package init(address: UInt64, byteCount: UInt32, flags: UInt16, next: UInt16) {
        self.address = address
        self.byteCount = byteCount
        self.flags = flags
        self.next = next
    }

    package var hasNext: Bool { flags & Self.nextFlag != 0 }
    package var isWritable: Bool { flags & Self.writeFlag != 0 }
    package var isIndirect: Bool { flags & Self.indirectFlag != 0 }
}

extension Descriptor {
    /// Copies the descriptor at `pointer`: two reads, each of 8 bytes.
    @inline(__always)
    package init(loadingFrom pointer: UnsafeMutableRawPointer) {
        let low: UInt64
        let high: UInt64
        if UInt(bitPattern: pointer) % 8 == 0 {
            low = pointer.loadShared64(at: 0)
            high = pointer.loadShared64(at: 8)
        } else {
            // The standard aligns the descriptor table but says nothing of indirect tables.
            low = pointer.loadSharedUnaligned64(at: 0)
            high = pointer.loadSharedUnaligned64(at: 8)
        }
        self.init(
            address: low,
            byteCount: UInt32(truncatingIfNeeded: high),
            flags: UInt16(truncatingIfNeeded: high >> 32),
            next: UInt16(truncatingIfNeeded: high >> 48)
        )
    }

    /// Writes the descriptor to `pointer`, which is aligned to 8.
    @inline(__always)
    package func store(to pointer: UnsafeMutableRawPointer) {
        pointer.storeShared64(address, at: 0)
        pointer.storeShared64(UInt64(byteCount) | UInt64(flags) << 32 | UInt64(next) << 48, at: 8)
    }
}
