// SPDX-License-Identifier: Apache-2.0
//
// One connection of a VM's monitor (QEMU, User Mode Linux, Cloud Hypervisor, crosvm, libkrun): vhost-user.rst, seen
// from the back-end. The VhostUser target knows the messages and the states; this file moves bytes and descriptors,
// maps guest memory, and starts and stops the device's queues accordingly.

import Logging
import VhostUser
import VirtioQueue
import VsockSystem
import VsockWire

/// See the top of the file.
final class VhostUserSession: PollHandler, QueueNotifier {
    /// Virtio 1.0 and later; legacy drivers are not served.
    private static let versionOneFeature: UInt64 = 1 << 32
    /// Messages before other VMs of the thread have their turn: a monitor can send them as fast as they are read.
    private static let turnMessageCount = 16

    /// One queue, as far as the session knows it.
    private final class Queue {
        var kick: OwnedFileDescriptor?
        var kickWatch: Watch?
        var call: OwnedFileDescriptor?
        var error: OwnedFileDescriptor?
        var isRunning = false
        /// Where the queue stands when it was stopped and the monitor has not asked: disabled (QEMU does that before
        /// it asks), or its memory is gone.
        var pausedBase: UInt16?
        /// It broke the rules, and has not been set up anew.
        var isBroken = false
        /// Whether the record of what is in flight is that of a device before this one.
        var resubmitsInflight = false
    }

    private let descriptor: OwnedFileDescriptor
    private let device: VsockDevice
    private let loop: EventLoop
    private let log: Logger
    private let ended: () -> Void
    private var watch: Watch?
    private var session: BackendSession
    private var reader = MessageReader()
    private var received = DescriptorList()
    private var mappings: [(region: MemoryRegion, mapping: MemoryMapping)] = []
    private let queues = (0..<VsockDevice.QueueIndex.count).map { _ in Queue() }
    /// Where what is in flight is recorded, if the monitor wants that.
    private var inflight: InflightMemory?
    /// Memory for that record, to be sent with the reply at hand.
    private var createdInflight: SharedMemory?
    /// User Mode Linux takes its device away when this is closed.
    private var backendChannel: OwnedFileDescriptor?

    /// Serves a monitor; `ended` is called when it has left.
    init(
        _ descriptor: consuming OwnedFileDescriptor, device: VsockDevice, loop: EventLoop, log: Logger,
        ended: @escaping () -> Void
    ) throws(SystemCallError) {
        self.descriptor = descriptor
        self.device = device
        self.loop = loop
        self.log = log
        self.ended = ended
        session = BackendSession(
            BackendSession.Configuration(
                features: Self.features(device.configuration),
                protocolFeatures: [
                    .multipleQueues, .config, .replyAck, .backendRequests, .configureMemorySlots,
                    .resetDevice, .status, .inflightSharedMemory,
                ],
                queueCount: VsockDevice.QueueIndex.count, maxQueueSize: device.configuration.queueSize,
                maxMemorySlots: device.configuration.limits[.memoryRegions]),
            deviceConfiguration: DeviceConfiguration(
                guestCID: VsockAddress.ContextID(rawValue: device.configuration.guestCID)
            ).bytes)
        super.init()
        watch = try loop.watch(self.descriptor.rawValue, [.readable, .readHangUp], self)
        device.notifier = self
    }

    /// Features offered to the driver.
    static func features(_ configuration: VsockDeviceConfiguration) -> UInt64 {
        var vsock: VsockFeatures = .stream
        if configuration.seqpacket.offersFeature { vsock.insert(.seqpacket) }
        return vsock.rawValue | versionOneFeature | VirtqueueFeatures.indirectDescriptorsBit
            | VirtqueueFeatures.eventIndexBit
    }

    /// Ends the session: the driver is gone for the device.
    func stop() {
        guard let watch else { return }
        loop.unwatch(watch, descriptor.rawValue)
        self.watch = nil
        for index in queues.indices { stopKicks(index) }
        device.driverLeft()
        device.setMemory(nil)
        if device.notifier === self { device.notifier = nil }
    }

    // MARK: QueueNotifier

    func notify(queue: Int) {
        if let call = queues[queue].call?.rawValue { _ = EventNotifier.signal(call) }
    }

    func reportBroken(queue: Int, _ error: VirtqueueError) {
        if let error = queues[queue].error?.rawValue { _ = EventNotifier.signal(error) }
        for index in queues.indices {
            queues[index].pausedBase = stopQueue(index)
            queues[index].isBroken = true
        }
    }

    // MARK: Messages

    override func ready(_ events: PollEvents) { device.hostSide.exclusively { serve() } }

    private func serve() {
        do throws(SessionEnd) {
            // What is left makes the descriptor ready again.
            for _ in 0..<Self.turnMessageCount {
                guard watch != nil, let message = try readMessage() else { break }
                try handle(message)
            }
        } catch {
            if let reason = error.reason {
                log.warning("monitor disconnected: \(reason)")
            } else {
                log.info("monitor disconnected")
            }
            stop()
            ended()
        }
    }

    /// Why a session is over; nil when the monitor left in peace.
    private struct SessionEnd: Error {
        var reason: String?
    }

    /// The next whole message; nil when more bytes have to come.
    private func readMessage() throws(SessionEnd) -> Message? {
        while true {
            var end: SessionEnd?
            var isBlocked = false
            let isFirst = !reader.isInsideMessage
            let message: Message?
            do throws(VhostUserError) {
                message = try reader.fill { buffer in
                    var descriptors = DescriptorList()
                    let result = DescriptorIO.receiveMessage(
                        descriptor.rawValue, into: buffer, descriptors: &descriptors)
                    if isFirst {
                        if !descriptors.cannotHoldOtherEnd(of: descriptor.rawValue) {
                            end = SessionEnd(reason: "a socket that may keep the session from ending")
                        }
                        received = descriptors
                    } else if !descriptors.isEmpty {
                        end = SessionEnd(reason: "descriptors in the middle of a message")
                    }
                    switch result {
                    case .message(let count, let flags):
                        if count == 0 { end = SessionEnd() }
                        if flags.contains(.controlTruncated) { end = SessionEnd(reason: "too many descriptors") }
                        return count
                    case .wouldBlock:
                        isBlocked = true
                        return 0
                    case .failed(let errno):
                        end = SessionEnd(reason: errno == .connectionReset ? nil : "\(errno)")
                        return 0
                    }
                }
            } catch {
                throw SessionEnd(reason: "\(error)")
            }
            if let end { throw end }
            if let message { return message }
            if isBlocked { return nil }
        }
    }

    private func handle(_ message: Message) throws(SessionEnd) {
        defer { received.removeAll() }
        let reply: OutgoingMessage?
        do throws(VhostUserError) {
            let request = try session.receive(message, descriptorCount: received.count)
            log.trace("vhost-user", metadata: ["request": "\(request.type)"])
            let result = perform(request)
            reply = session.complete(request, result)
            if result != .failure { reconcile() }
        } catch {
            log.warning("request refused", metadata: ["error": "\(error)"])
            if case .tooManyMemoryRegions = error { device.limits.reached(.memoryRegions, now: loop.now) }
            guard let refusal = session.refuse(message.header, error) else {
                throw SessionEnd(reason: "\(error)")
            }
            reply = refusal
        }
        guard let reply else { return }
        let descriptors = reply.descriptorCount > 0 ? createdInflight.map { [$0.rawDescriptor] } ?? [] : []
        defer { createdInflight = nil }
        let sent = reply.bytes.withUnsafeBytes {
            DescriptorIO.sendMessage(descriptor.rawValue, from: $0, descriptors: descriptors)
        }
        guard case .count(reply.bytes.count) = sent else {
            throw SessionEnd(reason: "the monitor does not read its replies")
        }
    }

    private func perform(_ request: BackendRequest) -> BackendResult {
        switch request.action {
        case .setMemoryTable(let regions):
            return setMemory(regions)
        case .addMemoryRegion(let region):
            return addMemory(region)
        case .removeMemoryRegion(let region):
            mappings.removeAll { $0.region.isIdentified(by: region) }
            return applyMemory()
        case .getQueueBase(let queue):
            let base = stopQueue(queue) ?? queues[queue].pausedBase ?? session.queues[queue].base
            stopKicks(queue)
            return .queueBase(base)
        case .setKick(let queue, let hasDescriptor):
            stopKicks(queue)
            if !hasDescriptor { log.warning("queue without a kick descriptor", metadata: ["queue": "\(queue)"]) }
            setKick(queue, received.take(at: 0))
        case .setCall(let queue, _):
            queues[queue].call = takeNotifier()
            // Buffers may have been used before the driver could be told: one call too many does no harm.
            if queues[queue].isRunning { notify(queue: queue) }
        case .setError(let queue, _):
            queues[queue].error = takeNotifier()
        case .setBackendChannel:
            backendChannel = received.take(at: 0)
        case .getInflight(let area):
            return makeInflight(area)
        case .setInflight(let area):
            return setInflight(area, received.take(at: 0))
        case .setStatus(0), .resetDevice, .resetOwner:
            for index in queues.indices { queues[index].pausedBase = stopQueue(index) }
            device.driverLeft()
        default:
            break
        }
        return .success
    }

    // MARK: Memory

    private func setMemory(_ regions: [MemoryRegion]) -> BackendResult {
        var table: [(MemoryRegion, MemoryMapping)] = []
        for (index, region) in regions.enumerated() {
            guard let mapping = map(region, received.take(at: index)) else { return .failure }
            table.append((region, mapping))
        }
        mappings = table
        return applyMemory()
    }

    private func addMemory(_ region: MemoryRegion) -> BackendResult {
        guard let mapping = map(region, received.take(at: 0)) else { return .failure }
        mappings.append((region, mapping))
        return applyMemory()
    }

    private func map(_ region: MemoryRegion, _ descriptor: consuming OwnedFileDescriptor?) -> MemoryMapping? {
        guard let descriptor = descriptor, let byteCount = Int(exactly: region.byteCount) else { return nil }
        do throws(SystemCallError) {
            return try MemoryMapping(
                descriptor: descriptor.rawValue, offset: region.mmapOffset, byteCount: byteCount)
        } catch {
            log.error("guest memory cannot be mapped", metadata: ["error": "\(error)"])
            return nil
        }
    }

    private func makeInflight(_ area: InflightArea) -> BackendResult {
        let configuration = session.configuration
        guard (1...configuration.queueCount).contains(area.queueCount),
            (1...configuration.maxQueueSize).contains(area.queueSize)
        else { return .failure }
        do throws(SystemCallError) {
            let byteCount = InflightMemory.byteCount(area)
            createdInflight = try SharedMemory(name: "vsock-inflight", byteCount: byteCount)
            return .inflight(
                InflightArea(
                    byteCount: UInt64(byteCount), queueCount: area.queueCount, queueSize: area.queueSize))
        } catch {
            log.error("no memory for what is in flight", metadata: ["error": "\(error)"])
            return .failure
        }
    }

    private func setInflight(
        _ area: InflightArea, _ descriptor: consuming OwnedFileDescriptor?
    ) -> BackendResult {
        guard let descriptor = descriptor else { return .failure }
        do throws(SystemCallError) {
            inflight = try InflightMemory(area, descriptor: descriptor.rawValue)
            for queue in queues { queue.resubmitsInflight = !queue.isRunning }
            return .success
        } catch {
            log.error("the record of what is in flight is refused", metadata: ["error": "\(error)"])
            return .failure
        }
    }

    /// Replaces the device's view of guest memory; queues that run go on in the new one.
    private func applyMemory() -> BackendResult {
        do throws(GuestMemoryError) {
            let memory = try GuestMemory(
                regions: mappings.map { entry in
                    GuestMemory.Region(
                        guestAddress: entry.region.guestAddress, byteCount: entry.region.byteCount,
                        userAddress: entry.region.userAddress, base: entry.mapping.base, owner: entry.mapping)
                })
            let running = queues.indices.filter { queues[$0].isRunning }
            let bases = running.map { stopQueue($0) ?? 0 }
            device.setMemory(memory)
            for (queue, base) in zip(running, bases) {
                queues[queue].pausedBase = base
                startQueue(queue, base: base, isContinued: true)
            }
            return .success
        } catch {
            log.error("guest memory refused", metadata: ["error": "\(error)"])
            return .failure
        }
    }

    // MARK: Queues

    /// Starts and stops queues as their states now demand.
    private func reconcile() {
        for index in 0..<VsockDevice.QueueIndex.count {
            let state = session.queues[index]
            let queue = queues[index]
            let shouldRun = state.isRunning && device.memory != nil && !queue.isBroken
            if shouldRun, !queue.isRunning {
                startQueue(index, base: queue.pausedBase ?? state.base, isContinued: false)
            } else if !shouldRun, queue.isRunning {
                queue.pausedBase = stopQueue(index)
            }
            if !state.isStarted {
                // Whatever starts it next says where it begins.
                queue.pausedBase = nil
                queue.isBroken = false
            }
        }
    }

    private func startQueue(_ index: Int, base: UInt16, isContinued: Bool) {
        let state = session.queues[index]
        guard let memory = device.memory, let addresses = state.addresses else { return }
        do throws(VirtqueueError) {
            let layout = try VirtqueueLayout(
                size: state.size, descriptorTable: addresses.descriptorTable, availableRing: addresses.availableRing,
                usedRing: addresses.usedRing, space: .user, memory: memory)
            let ring = DeviceQueue(
                layout: layout, features: VirtqueueFeatures(negotiated: session.features),
                owner: QueueMemory(memory, inflight), startIndex: base, inflight: inflight?.region(index),
                resubmits: queues[index].resubmitsInflight)
            queues[index].isRunning = true
            queues[index].resubmitsInflight = false
            queues[index].pausedBase = nil
            let features = VsockFeatures(rawValue: session.features)
            device.startQueue(
                index, ring: ring, base: base, isSeqpacketNegotiated: features.contains(.seqpacket),
                isContinued: isContinued,
                awaitsEventQueue: session.queues[VsockDevice.QueueIndex.event].isConfigured)
            log.debug("queue started", metadata: ["queue": "\(index)", "size": "\(state.size)", "base": "\(base)"])
        } catch {
            log.error("queue cannot be used", metadata: ["queue": "\(index)", "error": "\(error)"])
        }
    }

    private func stopQueue(_ index: Int) -> UInt16? {
        guard queues[index].isRunning else { return nil }
        queues[index].isRunning = false
        return device.stopQueue(index)
    }

    // MARK: Descriptors of queues

    private func setKick(_ queue: Int, _ descriptor: consuming OwnedFileDescriptor?) {
        queues[queue].kick = descriptor
        guard let kick = queues[queue].kick?.rawValue else { return }
        do throws(SystemCallError) {
            // Each write to an eventfd is an edge, so that its count need not be read; a pipe would fill up.
            let drains = EventNotifier.needsDraining(kick)
            queues[queue].kickWatch = try loop.watch(
                kick, drains ? .readable : [.readable, .edgeTriggered], KickHandler(kick, self, queue, drains: drains))
        } catch {
            log.error("kicks cannot be watched", metadata: ["queue": "\(queue)", "error": "\(error)"])
        }
    }

    private func stopKicks(_ queue: Int) {
        if let watch = queues[queue].kickWatch, let kick = queues[queue].kick?.rawValue { loop.unwatch(watch, kick) }
        queues[queue].kickWatch = nil
        queues[queue].kick = nil
    }

    /// The descriptor that came with a message, to be signalled. It may be a pipe that nobody reads: a monitor must
    /// not be able to stop this thread, which serves other VMs, too.
    private func takeNotifier() -> OwnedFileDescriptor? {
        guard let notifier = received.take(at: 0) else { return nil }
        try? DescriptorIO.setNonBlocking(notifier.rawValue)
        return notifier
    }

    private func kicked(_ queue: Int, _ drained: IOResult) {
        device.kicked(queue)
        switch drained {
        case .count(0), .failed:
            // A pipe whose writer is gone is readable for ever.
            log.warning("kick descriptor is dead", metadata: ["queue": "\(queue)"])
            stopKicks(queue)
        case .count, .wouldBlock:
            break
        }
    }

    /// The driver has made buffers available.
    private final class KickHandler: PollHandler {
        private let descriptor: Int32
        private unowned let session: VhostUserSession
        private let queue: Int
        private let drains: Bool

        init(_ descriptor: Int32, _ session: VhostUserSession, _ queue: Int, drains: Bool) {
            self.descriptor = descriptor
            self.session = session
            self.queue = queue
            self.drains = drains
        }

        override func ready(_ events: PollEvents) {
            session.kicked(queue, drains ? EventNotifier.drain(descriptor) : .wouldBlock)
        }
    }
}
