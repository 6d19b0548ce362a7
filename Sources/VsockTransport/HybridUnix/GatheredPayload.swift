// SPDX-License-Identifier: Apache-2.0
//
// Payload in guest memory on its way to one system call: bytes of a stream for sendmsg(2), or records for sendmmsg(2)
// with the beginning of one that goes on.
//
//      | segments of complete records | segments of the record that goes on, or of a stream |

import VirtioQueue
import VsockSystem

/// See the top of the file. Its memory is allocated once.
struct GatheredPayload: ~Copyable {
    /// Segments of one call: IOV_MAX, which holds for each message of a batch and is enough for all of them together.
    private static let segmentLimit = DescriptorIO.maximumSegmentCount
    /// Records of one call: as many as chains are taken at once.
    private static let recordLimit = 256

    /// All segments, in order.
    private(set) var segments = SegmentList(capacity: segmentLimit)
    /// Bytes behind the complete records.
    private(set) var byteCount = 0
    private var batch = MessageBatch(capacity: recordLimit)
    /// Where each complete record ends.
    private var ends: [(segment: Int, byteCount: Int)] = []
    private var completeByteCount = 0

    init() { ends.reserveCapacity(Self.recordLimit) }

    /// Complete records.
    var recordCount: Int { ends.count }

    /// Appends a segment; false when there is no room.
    @inline(__always)
    mutating func append(_ segment: MemorySegment) -> Bool {
        guard segments.append(segment) else { return false }
        byteCount += segment.count
        return true
    }

    /// What stands behind the last complete record is one, too. False when there are too many.
    mutating func endRecord() -> Bool {
        guard ends.count < Self.recordLimit else { return false }
        completeByteCount += byteCount
        byteCount = 0
        ends.append((segments.count, completeByteCount))
        return true
    }

    /// Sends complete records from `first` on: `.count` of records.
    mutating func send(_ descriptor: Int32, from first: Int) -> IOResult {
        batch.removeAll()
        for index in first..<ends.count {
            let range = segments(ofRecord: index)
            let isAdded = (segments.baseAddress + range.lowerBound).withMemoryRebound(
                to: IOVector.self, capacity: max(1, range.count)
            ) { batch.append($0, count: range.count) }
            precondition(isAdded, "a batch has room for as many records as are gathered")
        }
        return batch.send(descriptor)
    }

    /// The segments of a complete record.
    func segments(ofRecord index: Int) -> Range<Int> {
        (index == 0 ? 0 : ends[index - 1].segment)..<ends[index].segment
    }

    /// The bytes of a segment.
    func bytes(_ segment: Int) -> UnsafeRawBufferPointer {
        UnsafeRawBufferPointer(start: segments[segment].base, count: segments[segment].count)
    }

    /// Bytes of some of the complete records.
    func byteCount(ofRecords range: Range<Int>) -> Int {
        guard !range.isEmpty else { return 0 }
        return ends[range.upperBound - 1].byteCount - (range.lowerBound == 0 ? 0 : ends[range.lowerBound - 1].byteCount)
    }

    /// Forgets the complete records; what is behind them moves to the front.
    mutating func removeRecords() {
        guard let last = ends.last else { return }
        let rest = segments.count - last.segment
        for index in 0..<rest { segments[index] = segments[last.segment + index] }
        segments.truncate(to: rest)
        ends.removeAll(keepingCapacity: true)
        completeByteCount = 0
    }

    /// Forgets everything.
    mutating func removeAll() {
        segments.removeAll()
        byteCount = 0
        ends.removeAll(keepingCapacity: true)
        completeByteCount = 0
    }
}
