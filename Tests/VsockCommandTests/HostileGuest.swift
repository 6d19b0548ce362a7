// SPDX-License-Identifier: Apache-2.0
//
// A guest, and the monitor that it runs in, with all rules off: its rings are memory that anything is written to, and
// its vhost-user session says what no monitor would.

import Glibc
import VhostUser
import VirtioQueue
import VsockSystem
import VsockTestSupport
import VsockWire

@testable import VsockTransport

/// See the top of the file. What the device does about it is not looked at.
final class HostileGuest: @unchecked Sendable {
    // Unchecked: one attack writes to the rings from two threads, by purpose.

    static let guestBase: UInt64 = 0x10_0000
    static let queueSize = 64
    static let receive = VsockDevice.QueueIndex.receive
    static let transmit = VsockDevice.QueueIndex.transmit
    /// Bytes of a place for a packet; there is one for each descriptor.
    static let slotByteCount = 4096
    private static let ringByteCount = 0x4000
    private static let slotsOffset = 0x1_0000
    private static let memoryByteCount = 1 << 20

    let cid: UInt32
    let memory: SharedMemory
    let frontend: VhostUserFrontend
    private let kicks: [EventNotifier]
    private let calls: [EventNotifier]
    private var availableIndices: [UInt16] = [0, 0, 0]

    /// Starts the device that listens on `path`, as soon as it has seen that the guest before this one is gone.
    init(cid: UInt32, path: String, inflight: InflightFile? = nil) throws {
        self.cid = cid
        memory = try SharedMemory(name: "hostile-guest", byteCount: Self.memoryByteCount)
        kicks = try (0..<3).map { _ in try EventNotifier() }
        calls = try (0..<3).map { _ in try EventNotifier() }
        frontend = try Self.connect(path, inflight)
        let file = memory
        let (kicks, calls) = (kicks, calls)
        try frontend.start(
            FrontendStartup(
                features: 1 << 32 | VsockFeatures.stream.rawValue | VsockFeatures.seqpacket.rawValue
                    | VirtqueueFeatures.indirectDescriptorsBit,
                protocolFeatures: [.multipleQueues, .replyAck, .configureMemorySlots, .inflightSharedMemory],
                configurationByteCount: 0, memory: [region],
                queues: (0..<3).map { queue in
                    FrontendStartup.Queue(size: Self.queueSize, addresses: addresses(queue))
                },
                inflight: inflight?.area)
        ) { request in
            switch request {
            case .setMemoryTable: [file.rawDescriptor]
            case .setKick(let queue, _): [kicks[queue].rawDescriptor]
            case .setCall(let queue, _): [calls[queue].rawDescriptor]
            default: []
            }
        }
    }

    private static func connect(_ path: String, _ inflight: InflightFile?) throws -> VhostUserFrontend {
        let end = MonotonicClock.now() + testDeadline
        while true {
            let frontend = try VhostUserFrontend(path: path, inflight: inflight)
            // A second monitor is turned away.
            if (try? frontend.perform(.getFeatures, [])) != nil {
                return frontend
            }
            if MonotonicClock.now() > end { throw Deadline() }
        }
    }

    var region: MemoryRegion {
        MemoryRegion(
            guestAddress: Self.guestBase, byteCount: UInt64(Self.memoryByteCount),
            userAddress: UInt64(UInt(bitPattern: memory.mapping.base)), mmapOffset: 0)
    }

    private func ring(_ queue: Int) -> UnsafeMutableRawPointer { memory.mapping.base + queue * Self.ringByteCount }

    private func addresses(_ queue: Int) -> VringAddress {
        let base = UInt64(UInt(bitPattern: ring(queue)))
        return VringAddress(descriptorTable: base, usedRing: base + 0x3000, availableRing: base + 0x2000)
    }

    private func available(_ queue: Int) -> AvailableRing {
        AvailableRing(base: ring(queue) + 0x2000, mask: UInt16(Self.queueSize - 1))
    }

    // MARK: Rings

    func write(_ descriptor: Descriptor, at index: Int, queue: Int) {
        descriptor.store(to: ring(queue) + index % Self.queueSize * Descriptor.byteCount)
    }

    /// Puts any number into the available ring, and moves its index on.
    func offer(_ head: UInt16, queue: Int) {
        available(queue).setHead(head, at: availableIndices[queue])
        availableIndices[queue] &+= 1
        available(queue).releaseIndex(availableIndices[queue])
    }

    /// Stores any index.
    func publish(_ index: UInt16, queue: Int) { available(queue).releaseIndex(index) }

    /// Gives the device a copy of the memory, and then takes all but the first `byteCount` bytes of it away.
    func shortenMemory(to byteCount: Int) throws {
        let directory = try TemporaryDirectory()
        let file = OwnedFileDescriptor(owning: open(directory.file("memory"), O_CREAT | O_RDWR | O_CLOEXEC, 0o600))
        _ = DescriptorIO.write(
            file.rawValue, from: UnsafeRawBufferPointer(start: memory.mapping.base, count: Self.memoryByteCount))
        try frontend.perform(.setMemoryTable([region]), [file.rawValue])
        ftruncate(file.rawValue, off_t(byteCount))
        kick(Self.transmit)
        kick(Self.receive)
        // The monitor stays until the device has read its kicks, or has ended the session.
        try frontend.perform(.getFeatures, [])
    }

    func kick(_ queue: Int) { kicks[queue].signal() }

    func slotAddress(_ slot: Int) -> UInt64 {
        Self.guestBase + UInt64(Self.slotsOffset + slot % Self.queueSize * Self.slotByteCount)
    }

    /// Bytes into a slot.
    func fill(_ slot: Int, _ bytes: [UInt8]) {
        let place = memory.mapping.base + Self.slotsOffset + slot % Self.queueSize * Self.slotByteCount
        bytes.prefix(Self.slotByteCount).withUnsafeBytes { source in
            if let base = source.baseAddress { place.copyMemory(from: base, byteCount: source.count) }
        }
    }

    // MARK: Packets

    /// Offers bytes as a packet, without a look at whether the device is done with the place.
    func send(_ slot: Int, _ bytes: [UInt8], isKicked: Bool = true) {
        fill(slot, bytes)
        write(
            Descriptor(address: slotAddress(slot), byteCount: UInt32(bytes.count), flags: 0, next: 0), at: slot,
            queue: Self.transmit)
        offer(UInt16(slot % Self.queueSize), queue: Self.transmit)
        if isKicked { kick(Self.transmit) }
    }

    /// A packet of this guest, or of another.
    func packet(
        _ operation: Operation, type: SocketType = .stream, from port: UInt32, to hostPort: UInt32,
        cid destination: UInt64 = 2, source: UInt64? = nil, flags: UInt32 = 0, payload: [UInt8] = [],
        bufferAllocation: UInt32 = 262_144, forwardedCount: UInt32 = 0
    ) -> [UInt8] {
        let header = PacketHeader(
            sourceCID: source ?? UInt64(cid), destinationCID: destination, sourcePort: port,
            destinationPort: hostPort, payloadByteCount: UInt32(payload.count), type: type, operation: operation,
            flags: flags, bufferAllocation: bufferAllocation, forwardedCount: forwardedCount)
        var bytes = [UInt8](repeating: 0, count: PacketHeader.byteCount)
        bytes.withUnsafeMutableBytes { header.write(to: $0) }
        return bytes + payload
    }

    /// Offers receive buffers again and again: the same memory for all.
    func postReceiveBuffers() {
        for index in 0..<Self.queueSize {
            write(
                Descriptor(address: slotAddress(index), byteCount: 256, flags: Descriptor.writeFlag, next: 0),
                at: index, queue: Self.receive)
            offer(UInt16(index), queue: Self.receive)
        }
        kick(Self.receive)
    }
}
