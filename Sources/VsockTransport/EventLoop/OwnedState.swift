// SPDX-License-Identifier: Apache-2.0
//
// What the data path touches for every packet, without a check for every touch.

/// State of an object that one thread owns, or whoever has a lock, in memory of its own.
///
/// The stored variables of a class are checked for exclusive access at run time, whenever they are used: a call into the
/// runtime before and after, some 20 of them per packet. A constant property is not, and neither is what it points at.
/// The owner answers for exclusive access here: use it for values that never call out while they are being changed.
struct OwnedState<Value: ~Copyable>: ~Copyable {
    private let storage: UnsafeMutablePointer<Value>

    init(_ value: consuming Value) {
        storage = .allocate(capacity: 1)
        storage.initialize(to: value)
    }

    deinit {
        storage.deinitialize(count: 1)
        storage.deallocate()
    }

    /// The state.
    var value: Value {
        @inline(__always) _read { yield storage.pointee }
        @inline(__always) nonmutating _modify { yield &storage.pointee }
    }
}
