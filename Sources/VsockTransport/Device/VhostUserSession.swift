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
final class VhostUserSession: PollHandler, VsockDeviceFrontend {
    /// Virtio 1.0 and later; legacy drivers are not served.
    private static let versionOneFeature: UInt64 = 1 << 32
    /// Messages before other VMs of the thread have their turn: a monitor can send them as fast as they are read.
    private static let turnMessageCount = 16

    /// One queue, as far as the session knows it.
    final class Queue {
        var kick: OwnedFileDescriptor?
        var kickWatch: Watch?
        var kickEvents: PollEvents = []
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
    let device: VsockDevice
    let loop: EventLoop
    let log: Logger
    private let ended: () -> Void
    private var watch: Watch?
    private var hasEnded = false
    var session: BackendSession
    private var reader = MessageReader()
    var received = DescriptorList()
    var mappings: [(region: MemoryRegion, mapping: MemoryMapping)] = []
    let queues = (0..<VsockDevice.QueueIndex.count).map { _ in Queue() }
    /// Where what is in flight is recorded, if the monitor wants that.
    var inflight: InflightMemory?
    /// Memory for that record, to be sent with the reply at hand.
    var createdInflight: SharedMemory?
    /// User Mode Linux takes its device away when this is closed.
    private var backendChannel: OwnedFileDescriptor?
    private(set) lazy var kickPause = KickPause(loop, self)

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
        device.frontend = self
        device.memoryLoss.reset()
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
        guard !hasEnded else { return }
        hasEnded = true
        pause()
        for index in queues.indices { stopKicks(index) }
        kickPause.stop()
        device.driverLeft()
        device.setMemory(nil)
        // Now, as part of the work that the monitor has asked for, and not when the last reference goes.
        mappings = []
        inflight = nil
        createdInflight = nil
        backendChannel = nil
        for queue in queues {
            queue.call = nil
            queue.error = nil
        }
        device.memoryLoss.reset()
        if device.frontend === self { device.frontend = nil }
    }

    /// Whether the monitor has left, whatever it has said before.
    var hasMonitorLeft: Bool {
        let events = try? DescriptorIO.waitUntilReady(
            descriptor.rawValue, for: .readHangUp, timeoutNanoseconds: 0)
        return events.map { !$0.isDisjoint(with: [.readHangUp, .hangUp]) } ?? false
    }

    private func pause() {
        if let watch { loop.unwatch(watch, descriptor.rawValue) }
        watch = nil
    }

    /// Looks at the monitor's messages, and at its end, or away.
    func monitorPaceChanged() {
        guard !hasEnded, !device.monitorPace.isPaused else { return pause() }
        guard watch == nil else { return }
        do throws(SystemCallError) {
            watch = try loop.watch(descriptor.rawValue, [.readable, .readHangUp], self)
        } catch {
            log.error("monitor disconnected: it cannot be watched", metadata: ["error": "\(error)"])
            device.hostSide.exclusively { end() }
        }
    }

    // MARK: VsockDeviceFrontend

    func notify(queue: Int) {
        if let call = queues[queue].call?.rawValue { _ = EventNotifier.signal(call) }
    }

    func reportBroken(queue: Int, _ error: VirtqueueError) {
        if let error = queues[queue].error?.rawValue { _ = EventNotifier.signal(error) }
        for index in queues.indices {
            queues[index].pausedBase = stopQueue(index)
            queues[index].isBroken = true
        }
        watchKicks()
    }

    func memoryLost() {
        guard !hasEnded else { return }
        log.error("memory of the monitor is gone, its file may be shorter; the monitor is disconnected")
        for queue in queues {
            if let error = queue.error?.rawValue { _ = EventNotifier.signal(error) }
        }
        device.monitorPace.charge { end() }
    }

    // MARK: Messages

    override func ready(_ events: PollEvents) {
        device.monitorPace.charge { device.hostSide.exclusively { serve() } }
    }

    private func serve() {
        do throws(SessionEnd) {
            // What is left makes the descriptor ready again.
            for _ in 0..<Self.turnMessageCount {
                guard !hasEnded, let message = try readMessage() else { break }
                try handle(message)
            }
        } catch {
            if let reason = error.reason {
                log.warning("monitor disconnected: \(reason)")
            } else {
                log.info("monitor disconnected")
            }
            end()
        }
    }

    private func end() {
        stop()
        ended()
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
}
