// SPDX-License-Identifier: Apache-2.0
//
// Payload that a host program could not take at once. The guest's credit bounds it: no byte in it is returned as
// consumed before it has left, but for one batch of a stream, and for records that are larger than the buffer (see
// HybridHost+Delivery).
// An empty backlog owns no memory.

import VsockSystem

/// Bytes, and for records where each ends, in arrival order.
struct Backlog: ~Copyable {
    private var storage: UnsafeMutableRawBufferPointer?
    private var head = 0
    /// Bytes held.
    private(set) var byteCount = 0
    /// Lengths of the complete records, oldest first; the bytes beyond them belong to a record that goes on.
    private var records: [(byteCount: Int, consumedByteCount: Int)] = []
    private var firstRecord = 0
    /// Bytes of the record that goes on.
    private(set) var openRecordByteCount = 0

    deinit { storage?.deallocate() }

    /// Whether nothing is held: no byte and no empty record.
    var isEmpty: Bool { byteCount == 0 && !hasRecord }
    /// Whether something is held that can be written: bytes of a stream, or a complete record.
    var hasCompleteData: Bool { hasRecord || byteCount > openRecordByteCount }
    /// Whether a complete record is held.
    var hasRecord: Bool { firstRecord < records.count }
    /// Complete records held.
    var recordCount: Int { records.count - firstRecord }
    /// Bytes held, without those of complete records that are consumed.
    var unconsumedByteCount: Int {
        records[firstRecord...].reduce(byteCount) { $0 - $1.consumedByteCount }
    }
    /// Bytes of the oldest complete record.
    var firstRecordByteCount: Int { hasRecord ? records[firstRecord].byteCount : 0 }
    /// The bytes, oldest first.
    var bytes: UnsafeRawBufferPointer {
        guard let storage else { return UnsafeRawBufferPointer(start: nil, count: 0) }
        return UnsafeRawBufferPointer(rebasing: storage[head..<(head + byteCount)])
    }

    /// Appends bytes; of records, they belong to the one that goes on.
    mutating func append(_ bytes: UnsafeRawBufferPointer, isRecord: Bool) {
        guard let source = bytes.baseAddress, bytes.count > 0 else { return }
        reserve(bytes.count)
        storage?.baseAddress?.advanced(by: head + byteCount).copyMemory(from: source, byteCount: bytes.count)
        byteCount += bytes.count
        if isRecord { openRecordByteCount += bytes.count }
    }

    /// The record that goes on is complete; `consumedByteCount` of its bytes have been consumed before they left.
    mutating func endRecord(consumedByteCount: Int) {
        records.append((openRecordByteCount, consumedByteCount))
        openRecordByteCount = 0
    }

    /// Throws the record that goes on away.
    mutating func discardOpenRecord() {
        byteCount -= openRecordByteCount
        openRecordByteCount = 0
        releaseIfEmpty()
    }

    /// Removes bytes of a stream.
    mutating func removeFirst(_ count: Int) {
        head += count
        byteCount -= count
        releaseIfEmpty()
    }

    /// Removes the oldest complete record; returns how many of its bytes have been consumed before.
    mutating func removeFirstRecord() -> Int {
        guard hasRecord else { return 0 }
        let (count, consumedByteCount) = records[firstRecord]
        firstRecord += 1
        if firstRecord * 2 >= records.count {
            records.removeSubrange(..<firstRecord)
            firstRecord = 0
        }
        removeFirst(count)
        return consumedByteCount
    }

    /// Throws everything away.
    mutating func removeAll() {
        byteCount = 0
        openRecordByteCount = 0
        records = []
        firstRecord = 0
        releaseIfEmpty()
    }

    private mutating func releaseIfEmpty() {
        guard byteCount == 0 else { return }
        head = 0
        storage?.deallocate()
        storage = nil
        if !hasRecord { records = [] }
    }

    private mutating func reserve(_ count: Int) {
        let needed = byteCount + count
        if let storage, head + needed <= storage.count { return }
        if let storage, needed <= storage.count / 2, let base = storage.baseAddress {
            base.copyMemory(from: base + head, byteCount: byteCount)
            head = 0
            return
        }
        var capacity = max(4096, storage?.count ?? 0)
        while capacity < needed { capacity *= 2 }
        let larger = UnsafeMutableRawBufferPointer.allocate(byteCount: capacity, alignment: 16)
        larger.copyMemory(from: bytes)
        storage?.deallocate()
        storage = larger
        head = 0
    }
}
