// SPDX-License-Identifier: Apache-2.0
//
// The gather/scatter list that chains are appended to. Its buffer is allocated once and reused for every batch, so that
// taking chains from a queue allocates nothing.
//
// Invariant: 0 <= count <= capacity, and the first `count` elements are initialised.

/// A list of memory segments with a fixed capacity, allocated once.
///
/// Several chains can be accumulated in one list; a `DescriptorChain` names its part of the list by index ranges, which
/// stay valid until `removeAll()` or `truncate(to:)`.
public struct SegmentList: ~Copyable, @unchecked Sendable {
    // Unchecked because of the pointer: the buffer has this list as its only owner. What the segments point at is
    // shared memory whose lifetime `GuestMemory` guards.
    @usableFromInline let storage: UnsafeMutablePointer<MemorySegment>

    /// Number of segments that fit.
    public let capacity: Int
    /// Number of segments in the list.
    public private(set) var count: Int

    /// Allocates a list for `capacity` segments (at least one).
    public init(capacity: Int) {
        precondition(capacity > 0, "a segment list needs room for at least one segment")
        self.storage = .allocate(capacity: capacity)
        self.capacity = capacity
        self.count = 0
    }

    deinit {
        storage.deallocate()
    }

    /// Appends a segment; `false`, with the list unchanged, when there is no room.
    @discardableResult
    public mutating func append(_ segment: MemorySegment) -> Bool {
        guard count < capacity else { return false }
        (storage + count).initialize(to: segment)
        count += 1
        return true
    }

    /// Removes every segment. The buffer is kept.
    public mutating func removeAll() {
        count = 0
    }

    /// Removes the segments from `newCount` on.
    public mutating func truncate(to newCount: Int) {
        precondition(newCount >= 0 && newCount <= count, "truncation beyond the end of a segment list")
        count = newCount
    }

    /// `true` when the list has no segment.
    public var isEmpty: Bool { count == 0 }

    /// The segment at `index`.
    public subscript(index: Int) -> MemorySegment {
        get {
            precondition(index >= 0 && index < count, "segment index out of range")
            return storage[index]
        }
        set {
            precondition(index >= 0 && index < count, "segment index out of range")
            storage[index] = newValue
        }
    }

    /// First element of the buffer, for a system call's `iovec` argument. Valid while the list lives.
    public var baseAddress: UnsafeMutablePointer<MemorySegment> { storage }

    /// Calls `body` with all segments.
    @inlinable
    public func withUnsafeBuffer<Result, Failure: Error>(
        _ body: (UnsafeBufferPointer<MemorySegment>) throws(Failure) -> Result
    ) throws(Failure) -> Result {
        try body(UnsafeBufferPointer(start: storage, count: count))
    }

    /// Calls `body` with the segments of `range`, such as a chain's readable or writable part.
    @inlinable
    public func withUnsafeBuffer<Result, Failure: Error>(
        _ range: Range<Int>,
        _ body: (UnsafeBufferPointer<MemorySegment>) throws(Failure) -> Result
    ) throws(Failure) -> Result {
        precondition(range.lowerBound >= 0 && range.upperBound <= count, "segment range out of range")
        return try body(UnsafeBufferPointer(start: storage + range.lowerBound, count: range.count))
    }
}
