// SPDX-License-Identifier: Apache-2.0
//
// The "guest memory" of a driver in user space: one shared file that holds the rings and the packet buffers.
//
//      | rings of queues 0, 1, 2 | receive slots | transmit slots | event slots |
//
// A slot is a packet: 44 bytes of header, then payload, in one descriptor (virtio 1.3 "Message Framing" leaves the
// layout to the driver).

import VhostUser
import VirtioQueue
import VsockSystem
import VsockWire

/// Addresses in a driver's shared memory.
struct DriverMemory: Sendable {
    /// Guest address of the first byte: not 0, so that a null address is never valid.
    static let guestBase: UInt64 = 0x10_0000
    private static let pageByteCount = 4096
    /// Events that the device may have for us at once, as in Linux; a queue may be smaller.
    private static let eventSlotLimit = 8

    let memory: SharedMemory
    let queueSize: Int
    let receiveSlotByteCount: Int
    let transmitSlotByteCount = PacketHeader.byteCount + PacketHeader.maximumPayloadByteCount
    private let ringByteCount: Int
    private let receiveOffset: Int
    private let transmitOffset: Int
    private let eventOffset: Int

    /// Creates the memory for three queues of `queueSize` entries.
    init(queueSize: Int, receivePayloadByteCount: Int) throws(SystemCallError) {
        func rounded(_ byteCount: Int) -> Int { (byteCount + Self.pageByteCount - 1) & ~(Self.pageByteCount - 1) }
        self.queueSize = queueSize
        receiveSlotByteCount = PacketHeader.byteCount + receivePayloadByteCount
        ringByteCount =
            rounded(VirtqueueLayout.descriptorTableByteCount(size: queueSize))
            + rounded(VirtqueueLayout.availableRingByteCount(size: queueSize))
            + rounded(VirtqueueLayout.usedRingByteCount(size: queueSize))
        receiveOffset = ringByteCount * VsockDevice.QueueIndex.count
        transmitOffset = receiveOffset + rounded(receiveSlotByteCount * queueSize)
        eventOffset = transmitOffset + rounded(transmitSlotByteCount * queueSize)
        memory = try SharedMemory(name: "vsock-driver", byteCount: eventOffset + Self.pageByteCount)
    }

    /// The whole memory, as the back-end is told of it.
    var region: MemoryRegion {
        MemoryRegion(
            guestAddress: Self.guestBase, byteCount: UInt64(memory.mapping.byteCount),
            userAddress: UInt64(UInt(bitPattern: memory.mapping.base)), mmapOffset: 0)
    }

    /// The parts of a queue's ring.
    func layout(_ queue: Int) throws(VirtqueueError) -> VirtqueueLayout {
        let (descriptors, available, used) = offsets(queue)
        let base = memory.mapping.base
        return try VirtqueueLayout(
            size: queueSize, descriptorTable: base + descriptors, availableRing: base + available,
            usedRing: base + used)
    }

    /// The parts of a queue's ring, as the back-end is told of them.
    func addresses(_ queue: Int) -> VringAddress {
        let (descriptors, available, used) = offsets(queue)
        let base = UInt64(UInt(bitPattern: memory.mapping.base))
        return VringAddress(
            descriptorTable: base + UInt64(descriptors), usedRing: base + UInt64(used),
            availableRing: base + UInt64(available))
    }

    /// A slot for a packet from the device.
    func receiveSlot(_ index: Int) -> UnsafeMutableRawBufferPointer {
        UnsafeMutableRawBufferPointer(
            start: memory.mapping.base + receiveOffset + index * receiveSlotByteCount, count: receiveSlotByteCount)
    }

    /// A slot for a packet to the device.
    func transmitSlot(_ index: Int) -> UnsafeMutableRawBufferPointer {
        UnsafeMutableRawBufferPointer(
            start: memory.mapping.base + transmitOffset + index * transmitSlotByteCount,
            count: transmitSlotByteCount)
    }

    /// Slots for events.
    var eventSlotCount: Int { min(Self.eventSlotLimit, queueSize) }

    /// A slot for an event from the device.
    func eventSlot(_ index: Int) -> UnsafeMutableRawBufferPointer {
        UnsafeMutableRawBufferPointer(
            start: memory.mapping.base + eventOffset + index * DeviceEvent.byteCount, count: DeviceEvent.byteCount)
    }

    /// The guest address of a pointer into the memory.
    func buffer(_ slot: UnsafeMutableRawBufferPointer, byteCount: Int) -> GuestBuffer {
        let offset = slot.baseAddress.map { memory.mapping.base.distance(to: $0) } ?? 0
        return GuestBuffer(guestAddress: Self.guestBase + UInt64(offset), byteCount: UInt32(byteCount))
    }

    private func offsets(_ queue: Int) -> (descriptors: Int, available: Int, used: Int) {
        func rounded(_ byteCount: Int) -> Int { (byteCount + Self.pageByteCount - 1) & ~(Self.pageByteCount - 1) }
        let descriptors = queue * ringByteCount
        let available = descriptors + rounded(VirtqueueLayout.descriptorTableByteCount(size: queueSize))
        return (
            descriptors, available, available + rounded(VirtqueueLayout.availableRingByteCount(size: queueSize))
        )
    }
}
