// SPDX-License-Identifier: Apache-2.0
//
// The connections of an endpoint by slot number, in one piece of memory that grows and never shrinks. An array would do,
// but each look at one field of an element copies the whole of it, some 250 bytes, and each change asks whether the
// array is shared; both happen many times for every packet.

/// A growing list of connections, each used where it stands.
struct ConnectionSlots: ~Copyable, @unchecked Sendable {
    // Unchecked because of the pointer: this is its only owner, and it cannot be copied.
    private var storage: UnsafeMutablePointer<Connection>
    private var capacity: Int

    /// Slots, free ones included.
    private(set) var count = 0

    init() {
        capacity = 4
        storage = .allocate(capacity: capacity)
    }

    deinit {
        storage.deinitialize(count: count)
        storage.deallocate()
    }

    /// The connection in a slot, less than ``count``.
    subscript(slot: Int) -> Connection {
        // Addresses, as an array's: an accessor that yields may copy what it yields.
        @inline(__always) unsafeAddress {
            precondition(slot >= 0 && slot < count, "no such slot")
            return UnsafePointer(storage + slot)
        }
        @inline(__always) unsafeMutableAddress {
            precondition(slot >= 0 && slot < count, "no such slot")
            return storage + slot
        }
    }

    /// Adds a slot.
    mutating func append(_ connection: Connection) {
        if count == capacity {
            capacity *= 2
            let larger = UnsafeMutablePointer<Connection>.allocate(capacity: capacity)
            larger.moveInitialize(from: storage, count: count)
            storage.deallocate()
            storage = larger
        }
        (storage + count).initialize(to: connection)
        count += 1
    }
}
