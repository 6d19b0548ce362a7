// SPDX-License-Identifier: Apache-2.0
//
// What stops a whole queue, as opposed to one chain (`ChainDefect`).

/// Why a queue cannot be used, or not any further. After an error thrown by a queue operation its other half has broken
/// the protocol in a way that cannot be attributed to one chain: stop the queue.
public enum VirtqueueError: Error, Equatable, Sendable {
    /// The three parts of a split virtqueue.
    public enum Part: Sendable {
        /// The descriptor table.
        case descriptorTable
        /// The available ring ("driver area").
        case availableRing
        /// The used ring ("device area").
        case usedRing
    }

    /// Queue size is not a power of two between 1 and 32768.
    case invalidSize(Int)
    /// A part of the queue is not aligned to 16, 2 or 4 bytes respectively.
    case misaligned(Part)
    /// A part of the queue is not completely inside one region of the guest's memory.
    case outsideMemory(Part)
    /// The driver moved its index by more than the queue size: `next` is where the device stands, `index` what the ring
    /// says.
    case availableIndexJump(next: UInt16, index: UInt16)
    /// The available ring names a descriptor beyond the table.
    case headOutOfRange(UInt16)
    /// The device returned more chains than it was given: `next` is where the driver stands, `index` what the ring
    /// says.
    case usedIndexJump(next: UInt16, index: UInt16)
    /// The device returned a chain that it was not given.
    case unknownUsedHead(UInt32)
}
