// SPDX-License-Identifier: Apache-2.0
//
// Cuts a byte stream into records. The bytes are read straight into the buffer and sent from it; what is left of an
// unfinished record moves to the front when the buffer is full, and the buffer grows when the record fills it.
//
//      0         start            end          capacity
//      | given   | not yet given  | room       |

/// See the top of the file.
struct RecordInput: ~Copyable {
    /// No record is larger, as in the device: it bounds what a stream without separators takes of memory.
    static let maximumRecordByteCount = 16 << 20

    /// What one read asks for at least.
    private static let readByteCount = 256 << 10

    private let boundary: RecordBoundary
    private var buffer: UnsafeMutableRawBufferPointer
    private var start = 0
    private var end = 0
    /// No separator is before it.
    private var searched = 0

    init(_ boundary: RecordBoundary) {
        self.boundary = boundary
        buffer = .allocate(byteCount: 2 * Self.readByteCount, alignment: 16)
    }

    deinit {
        buffer.deallocate()
    }

    /// Bytes of a record that has no end yet.
    var unfinishedByteCount: Int { end - start }

    /// Where to read to; afterwards say with ``append(byteCount:)`` how much came. Take all records first.
    mutating func room() -> UnsafeMutableRawBufferPointer {
        if buffer.count - end < Self.readByteCount {
            let kept = end - start
            let source = UnsafeRawBufferPointer(rebasing: buffer[start..<end])
            if buffer.count - kept < Self.readByteCount {
                let larger = UnsafeMutableRawBufferPointer.allocate(byteCount: 2 * buffer.count, alignment: 16)
                larger.copyMemory(from: source)
                buffer.deallocate()
                buffer = larger
            } else {
                buffer.copyMemory(from: source)
            }
            searched -= start
            start = 0
            end = kept
        }
        return UnsafeMutableRawBufferPointer(rebasing: buffer[end...])
    }

    /// Takes what was read into the room.
    mutating func append(byteCount: Int) {
        precondition(byteCount >= 0 && byteCount <= buffer.count - end)
        end += byteCount
    }

    /// The next complete record, without its separator; nil if there is none. It stays until ``room()``.
    mutating func next() -> UnsafeRawBufferPointer? {
        switch boundary {
        case .size(let size):
            guard end - start >= size else { return nil }
            return take(size, skipping: 0)
        case .separator(let separator):
            guard let found = buffer[searched..<end].firstIndex(of: separator) else {
                searched = end
                return nil
            }
            return take(found - start, skipping: 1)
        }
    }

    /// What is left at the end of the stream: the last record may have no separator.
    mutating func last() -> UnsafeRawBufferPointer? {
        end > start ? take(end - start, skipping: 0) : nil
    }

    private mutating func take(_ byteCount: Int, skipping: Int) -> UnsafeRawBufferPointer {
        let record = UnsafeRawBufferPointer(rebasing: buffer[start..<(start + byteCount)])
        start += byteCount + skipping
        searched = start
        return record
    }
}
