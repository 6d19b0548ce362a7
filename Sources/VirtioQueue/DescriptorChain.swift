// SPDX-License-Identifier: Apache-2.0
//
// What a device gets when it asks for the next chain: virtio 1.3 "Split Virtqueues / Message Framing" (readable parts
// come before writable parts; nothing may be assumed about how many there are).

/// A chain taken from a queue, checked: all of its memory is inside the guest's memory and is listed in the
/// `SegmentList` that it was taken into. The device owns the chain until it returns it with `DeviceQueue.addUsed` or
/// puts it back with `DeviceQueue.rewind`.
public struct DescriptorChain: Equatable, Sendable {
    /// Identifies the chain when it is returned.
    public let head: UInt16
    /// Where the device-readable segments are in the list.
    public let readable: Range<Int>
    /// Where the device-writable segments are in the list: directly behind the readable ones.
    public let writable: Range<Int>
    /// Bytes that the device may read.
    public let readableByteCount: Int
    /// Bytes that the device may write.
    public let writableByteCount: Int
}

/// Answer to the question for the next chain.
public enum NextChain: Equatable, Sendable {
    /// The driver has made nothing more available.
    case empty
    /// There is a chain but its segments do not fit behind those in the list. It has not been taken: use up the list
    /// and ask again.
    case full
    /// A chain has been taken.
    case chain(DescriptorChain)
    /// A chain has been taken that must not be used: return it with length 0. `DeviceQueue.lastDefect` says why.
    case malformed(head: UInt16)
}

/// What is wrong with a malformed chain.
public enum ChainDefect: Equatable, Sendable, CaseIterable {
    /// The chain visits more descriptors than there are: it has a loop.
    case loop
    /// `next` points behind the end of the table.
    case nextOutOfRange
    /// Part of a buffer is outside the guest's memory.
    case outsideMemory
    /// A readable buffer comes after a writable one.
    case readableAfterWritable
    /// The chain's buffers add up to more than 2^32 bytes.
    case tooManyBytes
    /// The chain has more segments than an empty segment list holds.
    case tooManySegments
    /// An indirect descriptor although the feature was not negotiated.
    case indirectNotNegotiated
    /// An indirect descriptor in an indirect table.
    case indirectInIndirect
    /// An indirect descriptor that has a next one.
    case indirectWithNext
    /// An indirect table whose length is zero, not a multiple of 16, or above the limit.
    case indirectTableLength
    /// Part of an indirect table is outside the guest's memory.
    case indirectTableOutsideMemory
}
