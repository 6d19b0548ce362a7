// SPDX-License-Identifier: Apache-2.0
//
// The driver of a device under fuzz: it knows how to send a packet and how to post a buffer, and does much else. Its
// monitor keeps the record of what is in flight (vhost-user.rst "Inflight I/O tracking"), and writes to that, too.

import VsockCore
import VsockWire

@testable import VirtioQueue
@testable import VsockTransport

final class HostileDriver {
    private static let size = 16
    /// Where the rings are; everything behind them holds packets.
    private static let ringDistance: UInt64 = 256
    private static let queueDistance: UInt64 = 1024
    private static let dataStart = FuzzMemory.start + UInt64(VsockDevice.QueueIndex.count) * queueDistance

    private let memory: FuzzMemory
    private let features: VirtqueueFeatures
    private let isSeqpacketNegotiated: Bool
    private let layouts: [VirtqueueLayout]
    /// Nil when the monitor keeps no record.
    private let record: UnsafeMutableRawBufferPointer?
    private var positions: [UInt16] = [0, 0, 0]
    private var nextDescriptor = [0, 0, 0]
    private var nextData = dataStart

    init(_ input: inout FuzzInput, _ bench: FuzzBench) throws(FuzzFinding) {
        memory = try bench.cleanMemory()
        features = FuzzMemory.features(&input)
        let options = input.byte()
        isSeqpacketNegotiated = options & 1 == 1
        record = options & 2 == 0 ? nil : bench.cleanRecord(queueSize: Self.size)
        var layouts: [VirtqueueLayout] = []
        for queue in 0..<VsockDevice.QueueIndex.count {
            let start = FuzzMemory.start + UInt64(queue) * Self.queueDistance
            layouts.append(try memory.layout(size: Self.size, at: start, distance: Self.ringDistance))
        }
        self.layouts = layouts
    }

    /// Sets the queues up and starts them, as a session does: `count` of them, while it awaits the third or not.
    func start(
        _ fuzz: DeviceUnderFuzz, at base: UInt16, count: Int, awaitsEventQueue: Bool = false, resubmits: Bool = false
    ) {
        fuzz.device.setMemory(memory.memory)
        for queue in 0..<count {
            start(
                queue, of: fuzz, at: base, isContinued: false, awaitsEventQueue: awaitsEventQueue, resubmits: resubmits)
        }
    }

    private func start(
        _ queue: Int, of fuzz: DeviceUnderFuzz, at base: UInt16, isContinued: Bool, awaitsEventQueue: Bool = false,
        resubmits: Bool = false
    ) {
        let ring = DeviceQueue(
            layout: layouts[queue], features: features, owner: memory.memory, startIndex: base,
            inflight: region(queue), resubmits: resubmits)
        fuzz.device.startQueue(
            queue, ring: ring, base: base, isSeqpacketNegotiated: isSeqpacketNegotiated, isContinued: isContinued,
            awaitsEventQueue: awaitsEventQueue)
    }

    private func region(_ queue: Int) -> InflightRegion? {
        record?.baseAddress.flatMap {
            InflightRegion(base: $0 + queue * InflightRegion.byteCount(queueSize: Self.size), queueSize: Self.size)
        }
    }

    // MARK: What a driver does

    /// A packet on the transmit queue, cut into up to four descriptors.
    func send(_ input: inout FuzzInput) {
        let shape = input.byte()
        // Ports of listeners, and those that the host's connections come from.
        let hostPort = shape & 1 == 0 ? 5000 + UInt32(shape >> 1 & 1) : 0x4000_0000 + UInt32(shape >> 1 & 3)
        let byteCount = shape & 8 == 0 ? 0 : input.below(shape & 0x10 == 0 ? 256 : 6000)
        let operation: Operation =
            shape & 0x60 == 0 ? Operation(rawValue: UInt16(input.below(12))) : input.pick(Self.operations)
        let header = PacketHeader(
            sourceCID: shape & 0x80 == 0 || input.byte() > 8 ? 3 : input.number(), destinationCID: 2,
            sourcePort: UInt32(input.below(4)), destinationPort: hostPort,
            payloadByteCount: input.below(32) == 0 ? UInt32(truncatingIfNeeded: input.number()) : UInt32(byteCount),
            type: input.flag() ? .stream : .seqpacket, operation: operation, flags: UInt32(input.byte() & 3),
            bufferAllocation: input.below(8) == 0 ? UInt32(truncatingIfNeeded: input.number()) : 1 << 18,
            forwardedCount: input.below(4) == 0 ? UInt32(truncatingIfNeeded: input.number()) : 0)
        let total = PacketHeader.byteCount + byteCount
        guard let pointer = memory.memory.resolve(allocate(total), byteCount: total) else { return }
        let start = nextData - UInt64(total)
        header.write(to: UnsafeMutableRawBufferPointer(start: pointer, count: PacketHeader.byteCount))
        if header.isMarker, byteCount >= SequenceHeader.byteCount {
            (pointer + PacketHeader.byteCount).storeBytes(of: UInt64(input.integer(UInt32.self)), as: UInt64.self)
        }
        offer(cut(start, total, into: 1 + input.below(4), &input), 0, on: VsockDevice.QueueIndex.transmit)
    }

    private static let operations: [Operation] = [.request, .response, .readWrite, .readWrite, .shutdown, .reset]

    /// A buffer on the receive queue.
    func post(_ input: inout FuzzInput) {
        let total = input.below(8) == 0 ? input.below(64) : 44 + input.below(4096)
        let start = allocate(total)
        offer(
            cut(start, total, into: 1 + input.below(3), &input), Descriptor.writeFlag,
            on: VsockDevice.QueueIndex.receive)
    }

    /// A buffer on the event queue.
    func postEvent(_ input: inout FuzzInput) {
        let total = input.below(12)
        offer(
            cut(allocate(total), total, into: 1 + input.below(2), &input), Descriptor.writeFlag,
            on: VsockDevice.QueueIndex.event)
    }

    private func allocate(_ byteCount: Int) -> UInt64 {
        if nextData + UInt64(byteCount) > FuzzMemory.start + 12_288 { nextData = Self.dataStart }
        defer { nextData += UInt64(byteCount) }
        return nextData
    }

    private func cut(_ start: UInt64, _ total: Int, into count: Int, _ input: inout FuzzInput) -> [Range<UInt64>] {
        var pieces: [Range<UInt64>] = []
        var position = start
        let end = start + UInt64(total)
        for _ in 1..<count {
            let next = min(end, position + UInt64(input.byte()))
            pieces.append(position..<next)
            position = next
        }
        return pieces + [position..<end]
    }

    private func offer(_ pieces: [Range<UInt64>], _ flags: UInt16, on queue: Int) {
        let head = nextDescriptor[queue]
        for (index, piece) in pieces.enumerated() {
            let isLast = index == pieces.count - 1
            let next = UInt16((nextDescriptor[queue] + 1) % Self.size)
            let descriptor = Descriptor(
                address: piece.lowerBound, byteCount: UInt32(piece.count),
                flags: flags | (isLast ? 0 : Descriptor.nextFlag), next: next)
            descriptor.store(to: layouts[queue].descriptorTable + nextDescriptor[queue] * Descriptor.byteCount)
            nextDescriptor[queue] = Int(next)
        }
        publish(UInt16(head), on: queue)
    }

    private func publish(_ head: UInt16, on queue: Int) {
        let ring = AvailableRing(base: layouts[queue].availableRing, mask: UInt16(Self.size - 1))
        ring.setHead(head, at: positions[queue])
        positions[queue] &+= 1
        ring.releaseIndex(positions[queue])
    }

    // MARK: What no driver does

    func step(_ fuzz: DeviceUnderFuzz, _ input: inout FuzzInput) throws(FuzzFinding) {
        let queue = input.below(VsockDevice.QueueIndex.count)
        switch input.below(11) {
        case 0: memory.poke(&input)
        case 1:
            let start = FuzzMemory.start + UInt64(queue) * Self.queueDistance
            memory.write(
                FuzzMemory.descriptor(&input, size: Self.size), at: start + UInt64(16 * input.below(Self.size)))
        case 2: memory.write(FuzzMemory.descriptor(&input, size: 64), at: FuzzMemory.address(&input))
        case 3: publish(UInt16(input.below(Self.size + 1)), on: queue)
        case 4: fuzz.device.kicked(queue)
        case 5:
            let base = fuzz.device.stopQueue(queue)
            if input.flag() { start(queue, of: fuzz, at: base, isContinued: input.flag()) }
        case 6:
            // A new driver.
            fuzz.device.driverLeft()
            guard input.flag() else { return }
            let options = input.byte()
            start(
                fuzz, at: options & 1 == 0 ? positions[0] : input.integer(), count: options & 2 == 0 ? 3 : 2,
                awaitsEventQueue: options & 4 != 0, resubmits: options & 8 != 0)
        case 7: fuzz.device.setMemory(input.flag() ? memory.memory : nil)
        case 8, 9:
            guard let record, let base = record.baseAddress else { return }
            // The header of a region, or anything.
            let header = InflightRegion.byteCount(queueSize: Self.size) * queue
            let offset = input.flag() ? header + input.below(16) : Int(input.integer(UInt16.self)) % record.count
            (base + offset).storeBytes(of: input.byte(), as: UInt8.self)
        default: fuzz.device.deadlinePassed()
        }
    }
}
