// SPDX-License-Identifier: Apache-2.0
//
// The memory of a simulated guest, and the driver's half of its two rings: packets in slots of one size, in chains of a
// shape that the options choose. A call (interrupt) is the only thing that makes the driver look at a ring, so a device
// that forgets one is found.

import VirtioQueue
import VsockWire

/// How a guest's rings are.
struct RingOptions {
    var queueSize = 16
    /// Payload bytes of a slot.
    var receivePayload = 4096
    var transmitPayload = 4096
    /// Descriptors of a chain.
    var pieceCount = 1
    var hasEventIndex = true
    var hasIndirect = true

    /// The feature bits that say so.
    var features: UInt64 {
        (hasEventIndex ? VirtqueueFeatures.eventIndexBit : 0)
            | (hasIndirect ? VirtqueueFeatures.indirectDescriptorsBit : 0)
    }

    /// Chains that a ring holds at once.
    var slotCount: Int { hasIndirect && pieceCount > 1 ? queueSize : max(1, queueSize / pieceCount) }
}

/// Memory of the process that stands for a guest's.
final class GuestRAM: @unchecked Sendable {
    // Unchecked: a simulation has one thread.
    let base: UnsafeMutableRawPointer
    let byteCount: Int

    init(byteCount: Int) {
        self.byteCount = byteCount
        base = .allocate(byteCount: byteCount, alignment: 4096)
    }

    deinit { base.deallocate() }
}

/// One ring with the slots of its packets.
final class GuestRing {
    let layout: VirtqueueLayout
    let slotCount: Int
    private let slotByteCount: Int
    private let slots: UnsafeMutableRawPointer
    private let slotsAddress: UInt64
    private let pieceCount: Int
    private var queue: DriverQueue
    private(set) var freeSlots: [Int]
    /// The device has called since the ring was last looked at.
    var isCalled = true

    /// Where the used index stands: where a device that is set up anew goes on.
    var usedIndex: UInt16 { UsedRing(base: layout.usedRing, mask: layout.size - 1).acquireIndex() }
    /// Chains that the device has.
    var inFlightCount: Int { queue.inFlightCount }
    /// Descriptors that are in no chain.
    var freeDescriptorCount: Int { queue.freeDescriptorCount }

    /// Bytes that a ring needs in all.
    static func byteCount(_ options: RingOptions, payload: Int) -> Int {
        let ring = 4096 * (1 + options.queueSize * 26 / 4096 + 1)
        let tables = IndirectTables.byteCount(queueSize: options.queueSize, descriptorsPerTable: 4)
        return ring + tables + (PacketHeader.byteCount + payload) * options.slotCount + 4096
    }

    init(_ options: RingOptions, payload: Int, ram: GuestRAM, offset: Int, guestBase: UInt64) throws(VirtqueueError) {
        let size = options.queueSize
        let start = ram.base + offset
        let available = VirtqueueLayout.descriptorTableByteCount(size: size)
        let used = (available + VirtqueueLayout.availableRingByteCount(size: size) + 3) & ~3
        layout = try VirtqueueLayout(
            size: size, descriptorTable: start, availableRing: start + available, usedRing: start + used)
        let tables = (used + VirtqueueLayout.usedRingByteCount(size: size) + 15) & ~15
        let slotOffset = tables + IndirectTables.byteCount(queueSize: size, descriptorsPerTable: 4)
        queue = DriverQueue(
            layout: layout, features: VirtqueueFeatures(negotiated: options.features),
            indirectTables: IndirectTables(
                guestAddress: guestBase + UInt64(offset + tables), base: start + tables, descriptorsPerTable: 4),
            owner: ram)
        slots = start + slotOffset
        slotsAddress = guestBase + UInt64(offset + slotOffset)
        slotByteCount = PacketHeader.byteCount + payload
        slotCount = options.slotCount
        pieceCount = min(options.pieceCount, options.hasIndirect ? 4 : size)
        freeSlots = Array((0..<options.slotCount).reversed())
    }

    func slot(_ index: Int) -> UnsafeMutableRawBufferPointer {
        UnsafeMutableRawBufferPointer(start: slots + index * slotByteCount, count: slotByteCount)
    }

    /// A slot to be filled; nil when the device has them all.
    func takeSlot() -> Int? { freeSlots.popLast() }

    /// Gives the device a slot: to be read up to `byteCount`, or written as a whole. False when there is no room.
    func add(_ slot: Int, byteCount: Int, isWritable: Bool) -> Bool {
        var buffers: [GuestBuffer] = []
        var start = 0
        let base = slotsAddress + UInt64(slot * slotByteCount)
        for piece in 0..<pieceCount where start < byteCount {
            let isLast = piece == pieceCount - 1
            // The header is split, too.
            let count = isLast ? byteCount - start : min(byteCount - start, 20 + 17 * piece)
            buffers.append(GuestBuffer(guestAddress: base + UInt64(start), byteCount: UInt32(count)))
            start += count
        }
        let isAdded =
            isWritable
            ? queue.add(readable: [], writable: buffers, token: slot)
            : queue.add(readable: buffers, writable: [], token: slot)
        if !isAdded { freeSlots.append(slot) }
        return isAdded
    }

    /// Gives the device a chain of one descriptor of the caller's making, which must not be waited for.
    func addBroken(byteCount: UInt32) -> Bool {
        guard let slot = takeSlot() else { return false }
        let address = slotsAddress + UInt64(slot * slotByteCount)
        let isAdded = queue.add(
            readable: [GuestBuffer(guestAddress: address, byteCount: byteCount)], writable: [], token: slot)
        if !isAdded { freeSlots.append(slot) }
        return isAdded
    }

    /// Shows the device what was added; whether it wants a kick.
    func publish() -> Bool {
        queue.publish()
        return queue.needsKick()
    }

    /// Whether the device has returned chains without a call being needed any more.
    func beginPolling() -> Bool {
        guard isCalled else { return false }
        isCalled = false
        queue.disableInterrupts()
        return true
    }

    /// The slot of the next chain that the device has returned, and how much it has written.
    func pop() throws(VirtqueueError) -> (slot: Int, byteCount: Int)? {
        guard let used = try queue.popUsed() else { return nil }
        return (used.token, Int(used.writtenByteCount))
    }

    /// The slot is no more needed.
    func free(_ slot: Int) { freeSlots.append(slot) }

    /// The driver waits for calls again; `isBusy` when it has stopped before the end.
    func endPolling(isBusy: Bool) { if isBusy || queue.enableInterrupts() { isCalled = true } }
}
