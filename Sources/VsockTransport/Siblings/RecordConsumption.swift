// SPDX-License-Identifier: Apache-2.0
//
// Which bytes of records that are under way have been consumed before they left: those of each record by itself. If
// what leaves of one record were taken against what was consumed of a later one, that one's bytes would fill the buffer,
// and the rest of it could never come.

/// Complete records on their way, oldest first.
struct RecordConsumption {
    private var records: [(byteCount: Int, consumedByteCount: Int)] = []
    private var first = 0

    /// A record is complete; `consumedByteCount` of its bytes have been consumed.
    mutating func append(byteCount: Int, consumedByteCount: Int) {
        if byteCount > 0 { records.append((byteCount, consumedByteCount)) }
    }

    /// The oldest bytes have left; returns how many of them had been consumed before.
    mutating func removeFirst(_ byteCount: Int) -> Int {
        var left = byteCount
        var early = 0
        while left > 0, first < records.count {
            let count = min(left, records[first].byteCount)
            let consumed = min(count, records[first].consumedByteCount)
            records[first].byteCount -= count
            records[first].consumedByteCount -= consumed
            left -= count
            early += consumed
            if records[first].byteCount == 0 { first += 1 }
        }
        if first * 2 >= records.count {
            records.removeSubrange(..<first)
            first = 0
        }
        return early
    }
}
