// SPDX-License-Identifier: Apache-2.0
//
// A guest whose rings the test writes itself: chains of any shape, right and wrong, over a real vhost-user session.

import VhostUser
import VirtioQueue
import VsockSystem
import VsockTestSupport
import VsockWire

@testable import VsockTransport

/// One split ring, written by hand. Descriptors are used one after another, in a circle: a test has fewer in flight
/// than the ring has entries.
struct RawRing {
    let size: Int
    let layout: VirtqueueLayout
    let available: AvailableRing
    let used: UsedRing
    var availableIndex: UInt16
    var usedIndex: UInt16
    var nextDescriptor = 0

    init(_ layout: VirtqueueLayout, base: UInt16 = 0) {
        size = Int(layout.size)
        self.layout = layout
        available = AvailableRing(base: layout.availableRing, mask: layout.size - 1)
        used = UsedRing(base: layout.usedRing, mask: layout.size - 1)
        availableIndex = base
        usedIndex = base
    }

    /// Writes a chain and offers it; `next` and its flag are filled in. Returns the head.
    @discardableResult
    mutating func submit(_ chain: [Descriptor]) -> UInt16 {
        let head = place(chain)
        offer([head])
        return head
    }

    /// Writes a chain, to be offered.
    mutating func place(_ chain: [Descriptor]) -> UInt16 {
        let start = nextDescriptor
        for (offset, descriptor) in chain.enumerated() {
            var descriptor = descriptor
            let isLast = offset == chain.count - 1
            if !isLast {
                descriptor.flags |= Descriptor.nextFlag
                descriptor.next = UInt16((start + offset + 1) % size)
            }
            write(descriptor, at: (start + offset) % size)
        }
        nextDescriptor = (start + chain.count) % size
        return UInt16(start)
    }

    func write(_ descriptor: Descriptor, at index: Int) {
        descriptor.store(to: layout.descriptorTable + index * Descriptor.byteCount)
    }

    /// Offers chains, all at once.
    mutating func offer(_ heads: [UInt16]) {
        for head in heads {
            available.setHead(head, at: availableIndex)
            availableIndex &+= 1
        }
        available.releaseIndex(availableIndex)
    }

    mutating func popUsed() -> (head: UInt32, byteCount: UInt32)? {
        guard used.acquireIndex() != usedIndex else { return nil }
        defer { usedIndex &+= 1 }
        let element = used.element(at: usedIndex)
        return (element.id, element.byteCount)
    }
}

/// A guest over raw rings.
final class RingGuest {
    static let guestBase: UInt64 = 0x10_0000
    private static let memoryByteCount = 4 << 20

    let memory: SharedMemory
    let frontend: VhostUserFrontend
    let queueSize: Int
    private let kicks: [EventNotifier]
    private let calls: [EventNotifier]
    let errors: [EventNotifier]
    var rings: [RawRing] = []
    private var posted: [UInt32: [Descriptor]] = [:]
    private var allocated = 0

    /// Starts a device with queues of `queueSize` entries.
    convenience init(
        _ device: TestDevice, queueSize: Int = 64, seqpacket: Bool = true, indirect: Bool = false
    ) throws {
        try self.init(path: device.socketPath, queueSize: queueSize, seqpacket: seqpacket, indirect: indirect)
        try eventually { try device.inspect { $0.isReady } }
    }

    /// Starts the device that listens on `path`.
    init(path: String, queueSize: Int = 64, seqpacket: Bool = true, indirect: Bool = false) throws {
        self.queueSize = queueSize
        memory = try SharedMemory(name: "ring-guest", byteCount: Self.memoryByteCount)
        kicks = try (0..<3).map { _ in try EventNotifier() }
        calls = try (0..<3).map { _ in try EventNotifier() }
        errors = try (0..<3).map { _ in try EventNotifier() }
        frontend = try VhostUserFrontend(path: path)
        for _ in 0..<3 { rings.append(RawRing(try allocateLayout())) }
        var features: UInt64 = 1 << 32 | VsockFeatures.stream.rawValue
        if seqpacket { features |= VsockFeatures.seqpacket.rawValue }
        if indirect { features |= VirtqueueFeatures.indirectDescriptorsBit }
        try frontend.start(
            FrontendStartup(
                features: features,
                protocolFeatures: [.multipleQueues, .config, .replyAck, .configureMemorySlots, .resetDevice],
                configurationByteCount: DeviceConfiguration.byteCount, memory: [region], queues: [])
        ) { [memory] request in
            if case .setMemoryTable = request { return [memory.rawDescriptor] }
            return []
        }
        for queue in 0..<3 { try start(queue) }
    }

    /// The whole memory as the device is told of it.
    var region: MemoryRegion {
        MemoryRegion(
            guestAddress: Self.guestBase, byteCount: UInt64(Self.memoryByteCount),
            userAddress: UInt64(UInt(bitPattern: memory.mapping.base)), mmapOffset: 0)
    }

    // MARK: Queues

    /// Sets a queue up and enables it, as it stands in `rings`.
    func start(_ queue: Int, base: UInt16 = 0) throws {
        let layout = rings[queue].layout
        func address(_ pointer: UnsafeMutableRawPointer) -> UInt64 { UInt64(UInt(bitPattern: pointer)) }
        try frontend.perform(.setQueueSize(queue: queue, size: queueSize), [])
        try frontend.perform(.setQueueBase(queue: queue, base), [])
        try frontend.perform(
            .setQueueAddresses(
                queue: queue,
                VringAddress(
                    descriptorTable: address(layout.descriptorTable), usedRing: address(layout.usedRing),
                    availableRing: address(layout.availableRing))), [])
        try frontend.perform(.setError(queue: queue, hasDescriptor: true), [errors[queue].rawDescriptor])
        try frontend.perform(.setCall(queue: queue, hasDescriptor: true), [calls[queue].rawDescriptor])
        try setKick(queue)
        try frontend.perform(.setQueueEnabled(queue: queue, true), [])
    }

    func setKick(_ queue: Int) throws {
        try frontend.perform(.setKick(queue: queue, hasDescriptor: true), [kicks[queue].rawDescriptor])
    }

    /// A ring with nothing in it, at a new place.
    func renew(_ queue: Int) throws { rings[queue] = RawRing(try allocateLayout()) }

    func kick(_ queue: Int) { kicks[queue].signal() }

    /// Waits for an interrupt of a queue, and takes it.
    func awaitCall(_ queue: Int) throws {
        let events = try DescriptorIO.waitUntilReady(
            calls[queue].rawDescriptor, for: .readable, timeoutNanoseconds: testDeadline)
        guard !events.isEmpty else { throw TestFailure("no interrupt of queue \(queue)") }
        calls[queue].drain()
    }

    /// Waits until the device returns a chain of a queue.
    func used(_ queue: Int) throws -> (head: UInt32, byteCount: UInt32) {
        let deadline = MonotonicClock.now() + testDeadline
        while MonotonicClock.now() < deadline {
            if let used = rings[queue].popUsed() { return used }
            _ = try DescriptorIO.waitUntilReady(
                calls[queue].rawDescriptor, for: .readable, timeoutNanoseconds: 100_000_000)
            calls[queue].drain()
        }
        throw TestFailure("the device returns nothing on queue \(queue)")
    }

    // MARK: Memory

    /// Memory of the guest with these bytes in it.
    func place(_ bytes: [UInt8], alignment: Int = 1) -> Descriptor {
        let offset = allocate(max(1, bytes.count), alignment: alignment)
        bytes.withUnsafeBytes { source in
            guard let base = source.baseAddress else { return }
            (memory.mapping.base + offset).copyMemory(from: base, byteCount: source.count)
        }
        return Descriptor(
            address: Self.guestBase + UInt64(offset), byteCount: UInt32(bytes.count), flags: 0, next: 0)
    }

    /// Memory of the guest for the device to write to.
    func room(_ byteCount: Int) -> Descriptor {
        var descriptor = place([UInt8](repeating: 0xee, count: byteCount))
        descriptor.flags = Descriptor.writeFlag
        return descriptor
    }

    func bytes(_ descriptor: Descriptor) -> [UInt8] {
        let start = memory.mapping.base + Int(descriptor.address - Self.guestBase)
        return Array(UnsafeRawBufferPointer(start: start, count: Int(descriptor.byteCount)))
    }

    /// A descriptor for a table of descriptors.
    func indirect(_ chain: [Descriptor]) -> Descriptor {
        let offset = allocate(chain.count * Descriptor.byteCount, alignment: 16)
        for (index, descriptor) in chain.enumerated() {
            var descriptor = descriptor
            if index + 1 < chain.count {
                descriptor.flags |= Descriptor.nextFlag
                descriptor.next = UInt16(index + 1)
            }
            descriptor.store(to: memory.mapping.base + offset + index * Descriptor.byteCount)
        }
        return Descriptor(
            address: Self.guestBase + UInt64(offset), byteCount: UInt32(chain.count * Descriptor.byteCount),
            flags: Descriptor.indirectFlag, next: 0)
    }

    private func allocate(_ byteCount: Int, alignment: Int) -> Int {
        let start = (allocated + alignment - 1) / alignment * alignment
        precondition(start + byteCount <= Self.memoryByteCount, "the guest's memory is used up")
        allocated = start + byteCount
        return start
    }

    private func allocateLayout() throws -> VirtqueueLayout {
        let base = memory.mapping.base
        return try VirtqueueLayout(
            size: queueSize,
            descriptorTable: base
                + allocate(VirtqueueLayout.descriptorTableByteCount(size: queueSize), alignment: 16),
            availableRing: base + allocate(VirtqueueLayout.availableRingByteCount(size: queueSize), alignment: 2),
            usedRing: base + allocate(VirtqueueLayout.usedRingByteCount(size: queueSize), alignment: 4))
    }

    // MARK: Packets

    /// A packet from this guest to the host, or to another guest.
    func packet(
        _ operation: Operation, type: SocketType = .stream, from port: UInt32 = 1000, to hostPort: UInt32 = 5000,
        cid: UInt64 = 2, flags: UInt32 = 0, payloadByteCount: Int = 0
    ) -> PacketHeader {
        PacketHeader(
            sourceCID: 3, destinationCID: cid, sourcePort: port, destinationPort: hostPort,
            payloadByteCount: UInt32(payloadByteCount), type: type, operation: operation, flags: flags,
            bufferAllocation: 262_144)
    }

    /// Sends a packet whose bytes are cut into descriptors of `cuts` bytes and the rest.
    @discardableResult
    func send(
        _ header: PacketHeader, payload: [UInt8] = [], cuts: [Int] = [], isIndirect: Bool = false,
        isKicked: Bool = true
    ) throws -> UInt16 {
        let bytes = header.encoded + payload
        var chain: [Descriptor] = []
        var start = 0
        for cut in cuts {
            chain.append(place(Array(bytes[start..<(start + cut)])))
            start += cut
        }
        if start < bytes.count || chain.isEmpty { chain.append(place(Array(bytes[start...]))) }
        let head = rings[VsockDevice.QueueIndex.transmit].submit(isIndirect ? [indirect(chain)] : chain)
        if isKicked { kick(VsockDevice.QueueIndex.transmit) }
        return head
    }

    /// Posts a receive buffer of several descriptors.
    func post(_ byteCounts: [Int], isIndirect: Bool = false, isKicked: Bool = true) throws {
        let chain = byteCounts.map { room($0) }
        let head = rings[VsockDevice.QueueIndex.receive].submit(isIndirect ? [indirect(chain)] : chain)
        posted[UInt32(head)] = chain
        if isKicked { kick(VsockDevice.QueueIndex.receive) }
    }

    /// The next packet; nil for a buffer that came back empty.
    func next() throws -> Packet? {
        let (head, byteCount) = try used(VsockDevice.QueueIndex.receive)
        guard let chain = posted.removeValue(forKey: head) else { throw TestFailure("unknown chain \(head)") }
        let all = chain.flatMap { bytes($0) }
        guard byteCount > 0 else {
            guard all.allSatisfy({ $0 == 0xee }) else { throw TestFailure("an unused buffer was written to") }
            return nil
        }
        guard Int(byteCount) <= all.count, all[Int(byteCount)...].allSatisfy({ $0 == 0xee }) else {
            throw TestFailure("more was written than is reported")
        }
        guard let header = all.withUnsafeBytes({ PacketHeader($0) }),
            Int(byteCount) == PacketHeader.byteCount + Int(header.payloadByteCount)
        else { throw TestFailure("\(byteCount) bytes are no packet") }
        return Packet(header: header, payload: Array(all[PacketHeader.byteCount..<Int(byteCount)]))
    }
}

extension PacketHeader {
    /// The 44 bytes.
    var encoded: [UInt8] {
        var bytes = [UInt8](repeating: 0, count: PacketHeader.byteCount)
        bytes.withUnsafeMutableBytes { write(to: $0) }
        return bytes
    }
}
