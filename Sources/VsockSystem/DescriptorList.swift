// SPDX-License-Identifier: Apache-2.0
//
// The descriptors that travel with one message (SCM_RIGHTS, unix(7)). vhost-user sends at most 8 with a message
// (vhost-user.rst, "Communication"); 16 leaves room to notice a peer that sends too many. What nobody takes is closed
// with the list, so that a refused message cannot leak.

import Glibc

/// Up to 16 owned descriptors, without allocation. Closes those that were not taken.
public struct DescriptorList: ~Copyable, Sendable {
    /// The most descriptors that a list holds. Even, so that the control buffer has no padding where one more fits.
    public static var capacity: Int { 16 }

    private static var taken: Int32 { -1 }

    private var storage = InlineArray<16, Int32>(repeating: -1)

    /// Descriptors put in, counting those taken since.
    public private(set) var count = 0

    /// True if nothing was put in.
    public var isEmpty: Bool { count == 0 }

    /// Makes an empty list.
    public init() {}

    deinit {
        for index in 0..<count where storage[index] >= 0 { closeDescriptor(storage[index]) }
    }

    /// Puts a descriptor at the end. If the list is full it is closed and the result is false.
    @discardableResult
    public mutating func append(_ descriptor: consuming OwnedFileDescriptor) -> Bool {
        guard count < Self.capacity else { return false }
        storage[count] = descriptor.release()
        count += 1
        return true
    }

    /// Moves a descriptor out of the list; nil if there is none at `index` or if it was taken before.
    public mutating func take(at index: Int) -> OwnedFileDescriptor? {
        guard index >= 0, index < count, storage[index] >= 0 else { return nil }
        let rawValue = storage[index]
        storage[index] = Self.taken
        return OwnedFileDescriptor(owning: rawValue)
    }

    /// The descriptor at `index`, still owned by the list; nil as for ``take(at:)``.
    public borrowing func rawValue(at index: Int) -> Int32? {
        guard index >= 0, index < count, storage[index] >= 0 else { return nil }
        return storage[index]
    }

    /// Closes what was not taken and makes the list empty.
    public mutating func removeAll() {
        for index in 0..<count where storage[index] >= 0 { closeDescriptor(storage[index]) }
        count = 0
    }
}
