// SPDX-License-Identifier: Apache-2.0

import VirtioQueue

/// The buffer of a receive that polls: what comes for its socket goes there as long as the queue is empty.
struct PolledBuffer {
    private let buffer: UnsafeMutableRawBufferPointer
    /// Bytes of the stream in the buffer.
    private(set) var byteCount = 0
    /// The record in the buffer.
    private(set) var record: ReceiveResult?

    init(_ buffer: UnsafeMutableRawBufferPointer) { self.buffer = buffer }

    /// Takes bytes of a stream; returns how many fitted.
    mutating func append(_ bytes: UnsafeRawBufferPointer) -> Int {
        let count = min(bytes.count, buffer.count - byteCount)
        UnsafeMutableRawBufferPointer(rebasing: buffer[byteCount...]).copyMemory(
            from: UnsafeRawBufferPointer(rebasing: bytes[..<count]))
        byteCount += count
        return count
    }

    /// Takes a whole record; false when there is one already.
    mutating func fill(record segments: UnsafeBufferPointer<MemorySegment>, hasEndOfRecordMark: Bool) -> Bool {
        guard record == nil else { return false }
        var fullLength = 0
        for segment in segments {
            fullLength += segment.count
            _ = append(UnsafeRawBufferPointer(start: segment.base, count: segment.count))
        }
        record = ReceiveResult(
            count: byteCount, fullLength: fullLength, endOfRecord: hasEndOfRecordMark,
            truncated: byteCount < fullLength)
        return true
    }
}
