// SPDX-License-Identifier: Apache-2.0
//
// Which chains of a queue the device has taken and not returned, in memory that outlives the device's process:
// vhost-user.rst "Inflight I/O tracking", the layout of split queues.
//
//      0  features u64    8  version u16    10  desc_num u16    12  last_batch_head u16    14  used_idx u16
//     16  for each head: inflight u8, padding u8[5], next u16, counter u64
//
// The process may be killed between any two stores, so their order matters: a chain is marked before it is used; it is
// listed, from last_batch_head on, before the used ring's index covers it, and its mark goes only after that. Each
// store that something depends on has release order. (All stores that a process has executed are seen after its end.)
//
// The front-end keeps the memory and can write to it: what is read back is a claim about its own guest, and is checked
// as far as this process depends on it: heads are inside of the table, walks have a budget.

import Synchronization

/// The record of one queue's chains in flight.
public struct InflightRegion: @unchecked Sendable {
    // Unchecked because of the pointer: an address of memory that is shared by purpose.

    /// The version of this layout; 0 is a region that no device has used.
    static let version: UInt16 = 1
    private static let headerByteCount = 16
    private static let entryByteCount = 16
    private static let alignment = 64

    private enum Field {
        static let features = 0
        static let version = 8
        static let descriptorCount = 10
        static let lastBatchHead = 12
        static let usedIndex = 14
    }

    private enum Entry {
        static let inflight = 0
        static let next = 6
        static let counter = 8
    }

    private let base: UnsafeMutableRawPointer
    private let size: UInt16

    /// Bytes of the region of a queue with `queueSize` descriptors: a multiple of 64, which is also its alignment.
    public static func byteCount(queueSize: Int) -> Int {
        (headerByteCount + queueSize * entryByteCount + alignment - 1) & ~(alignment - 1)
    }

    /// Names a region; the caller keeps `byteCount(queueSize:)` bytes at `base` mapped. `nil` when `base` is not
    /// aligned to 8 bytes, or the size is none of a queue.
    public init?(base: UnsafeMutableRawPointer, queueSize: Int) {
        guard UInt(bitPattern: base) % 8 == 0, (1...VirtqueueLayout.maximumSize).contains(queueSize) else { return nil }
        self.base = base
        size = UInt16(queueSize)
    }

    /// Heads that the region has room for.
    public var queueSize: Int { Int(size) }

    /// Heads that are marked, in no particular order.
    public var inflightHeads: [UInt16] { (0..<size).filter { isInflight($0) } }

    // MARK: A device at work

    /// Forgets all marks: the device has taken nothing that it has not returned.
    func clear(usedIndex: UInt16) {
        for head in 0..<size { base.storeShared16(0, at: entry(head) + Entry.inflight) }
        base.storeShared64(0, at: Field.features)
        base.storeShared16(size, at: Field.descriptorCount)
        base.storeShared16(usedIndex, at: Field.usedIndex)
        base.releaseShared16(Self.version, at: Field.version)
    }

    @inline(__always)
    func take(_ head: UInt16, counter: UInt64) {
        base.storeShared64(counter, at: entry(head) + Entry.counter)
        base.releaseShared16(1, at: entry(head) + Entry.inflight)
    }

    /// Puts a chain on the list of the batch that the used ring's index is to cover next.
    @inline(__always)
    func addToBatch(_ head: UInt16) {
        base.storeShared16(base.loadShared16(at: Field.lastBatchHead), at: entry(head) + Entry.next)
        base.releaseShared16(head, at: Field.lastBatchHead)
    }

    /// The used ring's index has moved to `usedIndex` by a batch of `count` chains.
    @inline(__always)
    func endBatch(count: UInt16, usedIndex: UInt16) {
        unmarkLastBatch(count: count)
        base.releaseShared16(usedIndex, at: Field.usedIndex)
    }

    // MARK: A device that comes back

    /// The chains that were taken and not returned, in the order in which they were taken; `nil` when no device has
    /// used the region. The used ring's index, which is `usedIndex`, is the judge of the last batch. Their counters
    /// are 0, 1, … afterwards; none grows by that, so that a kill meanwhile does not change the order.
    func recover(usedIndex: UInt16) -> [UInt16]? {
        guard base.loadShared16(at: Field.version) == Self.version,
            base.loadShared16(at: Field.descriptorCount) == size
        else { return nil }
        let batch = usedIndex &- base.loadShared16(at: Field.usedIndex)
        unmarkLastBatch(count: min(batch, size))
        base.releaseShared16(usedIndex, at: Field.usedIndex)
        let marked = inflightHeads.map { ($0, base.loadShared64(at: entry($0) + Entry.counter)) }
            .sorted { $0.1 < $1.1 }.map { $0.0 }
        for (counter, head) in marked.enumerated() { take(head, counter: UInt64(counter)) }
        return marked
    }

    private func unmarkLastBatch(count: UInt16) {
        var head = base.loadShared16(at: Field.lastBatchHead)
        for _ in 0..<count {
            guard head < size else { return }
            base.releaseShared16(0, at: entry(head) + Entry.inflight)
            head = base.loadShared16(at: entry(head) + Entry.next)
        }
    }

    private func isInflight(_ head: UInt16) -> Bool {
        base.loadShared16(at: entry(head) + Entry.inflight) & 0xff != 0
    }

    @inline(__always)
    private func entry(_ head: UInt16) -> Int { Self.headerByteCount + Int(head) * Self.entryByteCount }
}
