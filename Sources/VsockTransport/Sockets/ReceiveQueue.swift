// SPDX-License-Identifier: Apache-2.0
//
// What a socket has received and not handed out: bytes in a ring, and where records end. Credit bounds the bytes: the
// ring grows to the socket's buffer size and no further.
//
// The first record may have been taken in part, when it is larger than the buffer: then `drainedByteCount` of its bytes
// are gone from the ring.

/// Bytes and record boundaries, in arrival order.
struct ReceiveQueue: ~Copyable {
    /// A record whose end has come.
    struct Record {
        /// All its bytes, drained ones included.
        var byteCount: Int
        var hasEndOfRecordMark: Bool
    }

    private var storage = UnsafeMutableRawBufferPointer(start: nil, count: 0)
    private var head = 0
    /// Bytes in the ring.
    private(set) var byteCount = 0
    private var records: [Record] = []
    private var firstRecord = 0
    /// Bytes in the ring that belong to the record whose end has not come.
    private(set) var openByteCount = 0
    /// Packets that these bytes came in.
    private(set) var openPacketCount = 0
    /// Bytes of the first record that have left the ring.
    private(set) var drainedByteCount = 0
    /// Complete records without a byte.
    private(set) var emptyRecordCount = 0

    deinit { storage.deallocate() }

    /// The ring's size in memory, which never shrinks: the most that was ever queued, rounded up to a power of two.
    var allocatedByteCount: Int { storage.count }

    /// The first complete record.
    var record: Record? { firstRecord < records.count ? records[firstRecord] : nil }

    /// Whether there is neither a byte nor a record, begun or drained.
    var isEmpty: Bool { byteCount == 0 && record == nil && drainedByteCount == 0 }

    /// Appends the bytes of a packet.
    mutating func append(_ bytes: UnsafeRawBufferPointer, isRecord: Bool) {
        reserve(bytes.count)
        let start = (head + byteCount) & (storage.count - 1)
        let first = min(bytes.count, storage.count - start)
        if let target = storage.baseAddress, let source = bytes.baseAddress {
            (target + start).copyMemory(from: source, byteCount: first)
            if first < bytes.count { target.copyMemory(from: source + first, byteCount: bytes.count - first) }
        }
        byteCount += bytes.count
        if isRecord {
            openByteCount += bytes.count
            openPacketCount += 1
        }
    }

    /// The record that is open ends.
    mutating func endRecord(hasEndOfRecordMark: Bool) {
        // Only the first record is ever drained, and the open one is that when no other is complete.
        let drained = record == nil ? drainedByteCount : 0
        let record = Record(byteCount: drained + openByteCount, hasEndOfRecordMark: hasEndOfRecordMark)
        if record.byteCount == 0 { emptyRecordCount += 1 }
        records.append(record)
        openByteCount = 0
        openPacketCount = 0
    }

    /// Throws the open record away; returns how many of its bytes were in the ring.
    mutating func discardOpenRecord() -> Int {
        let count = openByteCount
        if record == nil { drainedByteCount = 0 }
        byteCount -= count
        openByteCount = 0
        openPacketCount = 0
        return count
    }

    /// Copies the first bytes of the ring, as many as fit, and leaves them.
    func peek(into buffer: UnsafeMutableRawBufferPointer, limit: Int) -> Int {
        let count = min(buffer.count, limit, byteCount)
        guard count > 0, let target = buffer.baseAddress, let source = storage.baseAddress else { return 0 }
        let first = min(count, storage.count - head)
        target.copyMemory(from: source + head, byteCount: first)
        if first < count { (target + first).copyMemory(from: source, byteCount: count - first) }
        return count
    }

    /// Removes bytes of a stream.
    mutating func removeFirst(_ count: Int) {
        precondition(count <= byteCount, "more bytes than are queued")
        byteCount -= count
        head = byteCount == 0 ? 0 : (head + count) & (storage.count - 1)
    }

    /// Removes the bytes of the open record, which is the first, from the ring; they count as drained.
    mutating func drainOpenRecord() {
        precondition(record == nil, "only the first record is drained")
        drainedByteCount += openByteCount
        removeFirst(openByteCount)
        openByteCount = 0
        openPacketCount = 0
    }

    /// Removes the first complete record; returns how many of its bytes were in the ring.
    mutating func removeRecord() -> Int {
        guard let record else { return 0 }
        let count = record.byteCount - drainedByteCount
        if record.byteCount == 0 { emptyRecordCount -= 1 }
        removeFirst(count)
        drainedByteCount = 0
        firstRecord += 1
        if firstRecord == records.count {
            records.removeAll(keepingCapacity: true)
            firstRecord = 0
        } else if firstRecord >= 1024, firstRecord * 2 > records.count {
            records.removeFirst(firstRecord)
            firstRecord = 0
        }
        return count
    }

    /// Throws everything away; returns how many bytes were in the ring.
    mutating func removeAll() -> Int {
        let count = byteCount
        storage.deallocate()
        storage = UnsafeMutableRawBufferPointer(start: nil, count: 0)
        head = 0
        byteCount = 0
        records = []
        firstRecord = 0
        openByteCount = 0
        openPacketCount = 0
        drainedByteCount = 0
        emptyRecordCount = 0
        return count
    }

    private mutating func reserve(_ count: Int) {
        let needed = byteCount + count
        guard needed > storage.count else { return }
        var capacity = max(4096, storage.count)
        while capacity < needed { capacity *= 2 }
        let larger = UnsafeMutableRawBufferPointer.allocate(byteCount: capacity, alignment: 16)
        _ = peek(into: larger, limit: byteCount)
        storage.deallocate()
        storage = larger
        head = 0
    }
}
