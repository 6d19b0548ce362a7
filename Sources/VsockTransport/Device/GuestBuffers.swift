// SPDX-License-Identifier: Apache-2.0
//
// The buffers that a guest has posted on its receive queue (virtio 1.3 "Socket Device / Virtqueues", queue 0), as
// slots for packets: a header, and room for payload. Several are taken at once, so that one system call fills them;
// what was not needed is put back.

import VirtioQueue
import VsockCore
import VsockSystem
import VsockWire

/// Slots of a receive queue. Between ``reserve(byteCount:slotLimit:)`` and ``release()`` the payload areas of the
/// reserved slots lie in ``segments``, in order.
final class GuestBuffers {
    /// Slots reserved at once: enough for 256 KiB in pages.
    static let slotLimit = 96
    /// One less than IOV_MAX: the caller may add a segment.
    private static let segmentLimit = 1023

    private struct Slot {
        var head: UInt16
        /// The header's place, in `chainSegments`.
        var headerStart: Int
        var payloadByteCount: Int
        /// The payload's place, in `segments`.
        var payload: Range<Int>
    }

    private let queue: RunningQueue
    private let memory: GuestMemory
    private let memoryLoss: MemoryLoss
    /// Sees what is committed, if someone wants to.
    @exclusivity(unchecked) var tap: (any PacketTap)?
    @exclusivity(unchecked) private var chainSegments = SegmentList(capacity: segmentLimit)
    @exclusivity(unchecked) private var slots: [Slot] = []
    @exclusivity(unchecked) private var nextSlot = 0
    /// The payload areas of the reserved slots, with room for one more segment of the caller's.
    @exclusivity(unchecked) private(set) var segments = SegmentList(capacity: segmentLimit + 1)
    /// Chains that were malformed or too small for a packet.
    @exclusivity(unchecked) private(set) var uselessCount = 0
    /// Whether a packet with payload has been committed lately.
    @exclusivity(unchecked) private var hasPayload = false
    /// Used entries that are not published yet.
    @exclusivity(unchecked) private(set) var unpublishedCount = 0

    init(queue: RunningQueue, memory: GuestMemory, memoryLoss: MemoryLoss, tap: (any PacketTap)?) {
        self.queue = queue
        self.memory = memory
        self.memoryLoss = memoryLoss
        self.tap = tap
        slots.reserveCapacity(Self.slotLimit)
    }

    /// Takes slots until `byteCount` bytes of payload fit, at most `slotLimit` of them; for a packet without payload
    /// any slot will do. Returns the payload bytes that fit; nil when the guest has posted no slot.
    func reserve(byteCount: Int, slotLimit: Int) throws(VirtqueueError) -> Int? {
        beginReservation()
        var capacity = 0
        let limit = min(slotLimit, Self.slotLimit)
        while slots.count < max(1, limit), slots.isEmpty || capacity < byteCount {
            guard let chain = try nextChain(needsPayload: byteCount > 0) else { break }
            guard let room = append(chain) else {
                queue.ring.rewind(1)
                break
            }
            capacity += room
        }
        return slots.isEmpty ? nil : capacity
    }

    /// Takes up to `recordCount` slots, each for a record of its own: what a record has beyond its slot goes to a piece
    /// of `overflow` of `overflowByteCount` bytes, which there must be so many of. Returns how many slots there are; nil
    /// when the guest has posted none.
    func reserve(
        recordCount: Int, overflow: UnsafeMutableRawBufferPointer, overflowByteCount: Int
    ) throws(VirtqueueError) -> Int? {
        precondition(overflow.count / overflowByteCount >= recordCount, "a record without room for its rest")
        beginReservation()
        while slots.count < min(recordCount, Self.slotLimit), var area = overflow.baseAddress {
            guard let chain = try nextChain(needsPayload: true) else { break }
            area += slots.count * overflowByteCount
            guard append(chain) != nil else {
                queue.ring.rewind(1)
                break
            }
            // Of the segments that `append` may use one is left, if only for the last slot.
            segments.append(MemorySegment(base: area, count: overflowByteCount))
        }
        return slots.isEmpty ? nil : slots.count
    }

    /// The payload areas of a slot reserved for a record and the piece of overflow behind them, as a range of
    /// ``segments``.
    func recordAreas(at slot: Int) -> Range<Int> {
        let payload = slots[slot].payload
        return payload.lowerBound..<(payload.upperBound + 1)
    }

    private func beginReservation() {
        precondition(nextSlot == slots.count, "slots are still reserved")
        slots.removeAll(keepingCapacity: true)
        nextSlot = 0
        chainSegments.removeAll()
        segments.removeAll()
    }

    /// Payload bytes that fit into the next reserved slot; nil when all are committed.
    var nextCapacity: Int? { nextSlot < slots.count ? slots[nextSlot].payloadByteCount : nil }

    /// The payload areas of the next reserved slot, as a range of ``segments``.
    var nextPayload: Range<Int> { slots[nextSlot].payload }

    /// Fills the next reserved slot with a header; its payload has been written to its areas.
    func commit(_ header: PacketHeader) {
        let slot = slots[nextSlot]
        nextSlot += 1
        if let tap { show(header, slot.payload, to: tap) }
        if header.payloadByteCount > 0 { hasPayload = true }
        write(header, at: slot.headerStart)
        queue.ring.addUsed(
            head: slot.head,
            writtenByteCount: UInt32(PacketHeader.byteCount) &+ header.payloadByteCount)
        unpublishedCount += 1
    }

    /// Fills the next reserved slot with a packet whose payload is `bytes`.
    func commit(_ header: PacketHeader, payload bytes: UnsafeRawBufferPointer) {
        fill(bytes, at: 0)
        commit(header)
    }

    /// Writes bytes into the payload areas of the next reserved slot, from the `start`th on.
    func fill(_ bytes: UnsafeRawBufferPointer, at start: Int) {
        var skip = start
        var offset = 0
        for index in nextPayload where offset < bytes.count {
            let segment = segments[index]
            guard skip < segment.count else {
                skip -= segment.count
                continue
            }
            let area = UnsafeMutableRawBufferPointer(start: segment.base + skip, count: segment.count - skip)
            let count = min(area.count, bytes.count - offset)
            area.copyMemory(from: UnsafeRawBufferPointer(rebasing: bytes[offset..<(offset + count)]))
            offset += count
            skip = 0
        }
    }

    /// Fills slots with the control packets that `endpoint` owes the guest; true when the guest has none left.
    func transmitControl(of endpoint: inout Endpoint) throws(VirtqueueError) -> Bool {
        while endpoint.hasControlPackets {
            guard try reserve(byteCount: 0, slotLimit: 1) != nil else { return true }
            if let header = endpoint.nextControlPacket() { commit(header) }
            release()
        }
        return false
    }

    private func show(_ header: PacketHeader, _ payload: Range<Int>, to tap: any PacketTap) {
        var index = payload.lowerBound
        var left = Int(header.payloadByteCount)
        while left > 0, index < payload.upperBound {
            // The rest of the slot is of no more use.
            segments[index].count = min(segments[index].count, left)
            left -= segments[index].count
            index += 1
        }
        segments.withUnsafeBuffer(payload.lowerBound..<index) { tap.packet(header, $0, isOutgoing: true) }
    }

    /// Puts back the reserved slots that were not committed.
    func release() {
        queue.ring.rewind(slots.count - nextSlot)
        nextSlot = slots.count
    }

    /// Cuts the payload areas to `byteCount` bytes in all, so that no more can be read into them.
    func limitSegments(to byteCount: Int) {
        var left = byteCount
        for index in 0..<segments.count {
            guard segments[index].count >= left else {
                left -= segments[index].count
                continue
            }
            if left == 0 {
                segments.truncate(to: index)
            } else {
                segments.baseAddress[index] = MemorySegment(base: segments[index].base, count: left)
                segments.truncate(to: index + 1)
            }
            return
        }
    }

    /// Adds an area of the caller's behind the payload areas.
    func appendSegment(_ segment: MemorySegment) { _ = segments.append(segment) }

    /// Whether a packet with payload has been committed since the last call.
    func takesPayload() -> Bool {
        defer { hasPayload = false }
        return hasPayload
    }

    /// Shows the guest what was committed; true when it wants to be told.
    func publish() -> Bool {
        guard unpublishedCount > 0 else { return false }
        unpublishedCount = 0
        queue.ring.publishUsed()
        return queue.ring.needsNotification()
    }

    /// A chain of no use (malformed, too small) goes back with length 0, for keeping it would block those behind it.
    /// Only as the first of a reservation, though: those before it may yet be put back, and must stay the last taken.
    private func nextChain(needsPayload: Bool) throws(VirtqueueError) -> DescriptorChain? {
        // What is written may be for nobody, and each lost page costs more than a packet.
        guard !memoryLoss.hasHappened else { return nil }
        while true {
            let useless: UInt16
            switch try queue.ring.next(memory: memory, into: &chainSegments) {
            case .empty, .full:
                return nil
            case .malformed(let head):
                useless = head
            case .chain(let chain):
                let needed = PacketHeader.byteCount + (needsPayload ? SequenceHeader.byteCount : 0)
                if chain.writableByteCount >= needed { return chain }
                useless = chain.head
            }
            guard slots.isEmpty else {
                queue.ring.rewind(1)
                return nil
            }
            queue.ring.addUsed(head: useless, writtenByteCount: 0)
            unpublishedCount += 1
            uselessCount += 1
        }
    }

    private func append(_ chain: DescriptorChain) -> Int? {
        var index = chain.writable.lowerBound
        var skip = PacketHeader.byteCount
        while skip > 0, skip >= chainSegments[index].count {
            skip -= chainSegments[index].count
            index += 1
        }
        let start = segments.count
        var capacity = 0
        while index < chain.writable.upperBound, capacity < PacketHeader.maximumPayloadByteCount {
            let segment = chainSegments[index]
            let count = min(segment.count - skip, PacketHeader.maximumPayloadByteCount - capacity)
            guard segments.count < Self.segmentLimit,
                segments.append(MemorySegment(base: segment.base + skip, count: count))
            else {
                segments.truncate(to: start)
                return nil
            }
            capacity += count
            skip = 0
            index += 1
        }
        slots.append(
            Slot(
                head: chain.head, headerStart: chain.writable.lowerBound, payloadByteCount: capacity,
                payload: start..<segments.count))
        return capacity
    }

    private func write(_ header: PacketHeader, at start: Int) {
        let first = chainSegments[start]
        if first.count >= PacketHeader.byteCount {
            header.write(to: UnsafeMutableRawBufferPointer(start: first.base, count: first.count))
            return
        }
        withUnsafeTemporaryAllocation(byteCount: PacketHeader.byteCount, alignment: 8) { bytes in
            header.write(to: bytes)
            var index = start
            var offset = 0
            while offset < PacketHeader.byteCount {
                let segment = chainSegments[index]
                let count = min(segment.count, PacketHeader.byteCount - offset)
                if let base = bytes.baseAddress { segment.base.copyMemory(from: base + offset, byteCount: count) }
                offset += count
                index += 1
            }
        }
    }
}
