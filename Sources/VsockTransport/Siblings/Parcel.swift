// SPDX-License-Identifier: Apache-2.0
//
// Payload on its way from one guest to another, and the queue in which it waits for the buffers of the second. The
// first guest's memory is good for one batch only, so this is the one copy; it changes threads by reference.

import VirtioQueue

/// Where a record ends in a run of bytes.
struct RecordEnd: Sendable {
    /// Bytes of the run up to the end of the record.
    var offset: Int
    /// Whether it was sent with MSG_EOR.
    var hasEndOfRecordMark: Bool
}

/// Bytes of one connection, in order, and the ends of records in them. It belongs to one thread after another, never
/// to two.
final class Parcel: @unchecked Sendable {
    private let storage: UnsafeMutableRawBufferPointer
    /// Bytes held.
    private(set) var byteCount = 0
    /// The ends of records, in order.
    private(set) var ends: [RecordEnd]

    /// A parcel with room for `capacity` bytes.
    init(capacity: Int, ends: [RecordEnd] = []) {
        storage = .allocate(byteCount: max(1, capacity), alignment: 16)
        self.ends = ends
    }

    deinit { storage.deallocate() }

    /// Bytes that can be appended.
    var room: Int { storage.count - byteCount }

    /// The bytes.
    var bytes: UnsafeRawBufferPointer { UnsafeRawBufferPointer(rebasing: storage[..<byteCount]) }

    /// Appends bytes, for which there is ``room``.
    func append(_ bytes: UnsafeRawBufferPointer) {
        UnsafeMutableRawBufferPointer(rebasing: storage[byteCount...]).copyMemory(from: bytes)
        byteCount += bytes.count
    }

    /// Takes the last bytes back.
    func removeLast(_ count: Int) { byteCount -= count }
}

/// Parcels in arrival order, as a run of bytes with records in it. The sender's credit bounds it.
struct ParcelQueue {
    /// Smaller parcels are put together, so that many of them cost little more than their bytes.
    private static let minimumCapacity = 4096

    private var parcels: [Parcel] = []
    private var first = 0
    /// Bytes of the first parcel that are gone.
    private var skipped = 0
    /// Bytes held.
    private(set) var byteCount = 0
    private var records: [(byteCount: Int, hasEndOfRecordMark: Bool)] = []
    private var firstRecord = 0
    /// Bytes of the record that goes on.
    private(set) var openRecordByteCount = 0

    /// Complete records held.
    var recordCount: Int { records.count - firstRecord }

    /// The oldest complete record.
    var nextRecord: (byteCount: Int, hasEndOfRecordMark: Bool)? {
        firstRecord < records.count ? records[firstRecord] : nil
    }

    /// The first bytes, as far as they lie in one piece.
    var firstPiece: UnsafeRawBufferPointer {
        guard first < parcels.count else { return UnsafeRawBufferPointer(start: nil, count: 0) }
        return UnsafeRawBufferPointer(rebasing: parcels[first].bytes[skipped...])
    }

    /// Takes a parcel; of records when `isRecord`.
    mutating func append(_ parcel: Parcel, isRecord: Bool) {
        var start = 0
        for end in parcel.ends {
            records.append((openRecordByteCount + end.offset - start, end.hasEndOfRecordMark))
            openRecordByteCount = 0
            start = end.offset
        }
        if isRecord { openRecordByteCount += parcel.byteCount - start }
        guard parcel.byteCount > 0 else { return }
        byteCount += parcel.byteCount
        if first < parcels.count, let last = parcels.last, last.room >= parcel.byteCount {
            last.append(parcel.bytes)
        } else if parcel.byteCount < Self.minimumCapacity {
            let larger = Parcel(capacity: Self.minimumCapacity)
            larger.append(parcel.bytes)
            parcels.append(larger)
        } else {
            parcels.append(parcel)
        }
    }

    /// Removes bytes that have left.
    mutating func removeFirst(_ count: Int) {
        byteCount -= count
        skipped += count
        while first < parcels.count, skipped >= parcels[first].byteCount {
            skipped -= parcels[first].byteCount
            first += 1
        }
        if first * 2 >= parcels.count {
            parcels.removeSubrange(..<first)
            first = 0
        }
    }

    /// The oldest record has left.
    mutating func removeFirstRecord() {
        firstRecord += 1
        if firstRecord * 2 >= records.count {
            records.removeSubrange(..<firstRecord)
            firstRecord = 0
        }
    }

    /// Throws everything away but the record that goes on, of which the sender keeps account; returns how much.
    mutating func discardComplete() -> (byteCount: Int, recordCount: Int) {
        let discarded = (byteCount - openRecordByteCount, recordCount)
        removeFirst(discarded.0)
        records = []
        firstRecord = 0
        return discarded
    }

    /// Throws the record that goes on away.
    mutating func discardOpenRecord() {
        byteCount -= openRecordByteCount
        while openRecordByteCount > 0, let last = parcels.last {
            let count = min(openRecordByteCount, last.byteCount)
            openRecordByteCount -= count
            last.removeLast(count)
            if last.byteCount == 0 { parcels.removeLast() }
        }
        removeFirst(0)
    }
}
