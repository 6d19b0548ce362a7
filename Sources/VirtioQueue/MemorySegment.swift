// SPDX-License-Identifier: Apache-2.0
//
// One contiguous piece of memory, as a system call takes it.

/// A contiguous range of this process's memory: base and length in bytes.
///
/// The layout is that of `struct iovec` on 64-bit Linux (16 bytes, base at 0, length at 8), so a buffer of segments can
/// be handed to `readv`, `writev` or `sendmsg` as it is. A segment owns nothing: it is valid while the memory it points
/// into is mapped.
@frozen
public struct MemorySegment {
    /// First byte of the segment.
    public var base: UnsafeMutableRawPointer
    /// Length in bytes.
    public var count: Int

    /// Makes a segment of `count` bytes at `base`.
    @inlinable
    public init(base: UnsafeMutableRawPointer, count: Int) {
        self.base = base
        self.count = count
    }
}
