// SPDX-License-Identifier: Apache-2.0
//
// The driver of a socket device, in user space: a guest without a virtual machine (Linux: virtio_transport.c). It is
// a front-end for any vhost-user-vsock back-end, with rings and buffers in memory of its own. It carries packets and
// knows nothing of connections.
//
// A driver belongs to one thread at a time.

import VhostUser
import VirtioQueue
import VsockSystem
import VsockWire

/// See the top of the file.
public final class VsockDriver {
    /// What a driver asks of its device.
    public struct Options: Sendable {
        /// Entries of each queue; a power of two.
        public var queueSize = 256
        /// Payload bytes that fit into a receive buffer: of 64 KiB that a device has for its guest, each buffer takes so
        /// many. Linux has about 3.7 KiB.
        public var receivePayloadByteCount = 16384
        /// Whether to accept VIRTIO_VSOCK_F_SEQPACKET when it is offered.
        public var acceptsSeqpacket = true
        /// Whether to accept the event index when it is offered.
        public var acceptsEventIndex = true

        /// The defaults.
        public init() {}

        /// Buffers of a page, as Linux guests post them.
        public static var pages: Self {
            var options = Self()
            options.receivePayloadByteCount = 4096
            return options
        }
    }

    private static let callToken: UInt64 = 0
    private static let frontendToken: UInt64 = 1
    private static let transmitCallToken: UInt64 = 2
    private static let wakeToken: UInt64 = 3
    private static let eventCallToken: UInt64 = 4

    private let path: String
    private let options: Options
    private var frontend: VhostUserFrontend
    private let memory: DriverMemory
    private let kicks: [EventNotifier]
    private let calls: [EventNotifier]
    private let backendChannel: BackendChannel
    private let poller: Poller
    @exclusivity(unchecked) private var pollEvents = PollEventBuffer(capacity: 5)
    private let waker: EventNotifier
    @exclusivity(unchecked) private var receiveQueue: DriverQueue
    @exclusivity(unchecked) private var transmitQueue: DriverQueue
    private var eventQueue: DriverQueue
    @exclusivity(unchecked) private var receiveSlots: ReceiveSlots
    /// The one used last comes first.
    @exclusivity(unchecked) private var freeTransmitSlots: [Int]
    /// Payload bytes from which on it pays to look for a slot that is in the processor's caches.
    private static let warmSlotByteCount = 16 << 10
    @exclusivity(unchecked) private var hasUnpublishedPackets = false
    private let negotiatedFeatures: UInt64

    /// The context ID that the device gives its guest.
    public let guestCID: VsockAddress.ContextID
    /// The device's features that are in force.
    public let features: VsockFeatures

    /// Connects to the back-end that listens on `path` and starts the device.
    public init(path: String, options: Options = Options()) throws(VsockDriverError) {
        self.path = path
        self.options = options
        do throws(SystemCallError) {
            memory = try DriverMemory(
                queueSize: options.queueSize, receivePayloadByteCount: options.receivePayloadByteCount)
            kicks = try Self.makeNotifiers()
            calls = try Self.makeNotifiers()
            backendChannel = try BackendChannel()
            waker = try EventNotifier()
            poller = try Poller()
        } catch {
            throw .system(error)
        }
        receiveSlots = ReceiveSlots(count: options.queueSize, payloadByteCount: options.receivePayloadByteCount)
        freeTransmitSlots = Array((0..<options.queueSize).reversed())
        frontend = try VhostUserFrontend(path: path)
        try Self.start(
            frontend, options, memory: memory, kicks: kicks, calls: calls, channel: backendChannel, bases: [0, 0, 0])
        let negotiated = frontend.session.features
        negotiatedFeatures = negotiated
        features = VsockFeatures(rawValue: negotiated)
        guard let configuration = frontend.configuration.withUnsafeBytes({ DeviceConfiguration($0) }),
            configuration.guestCID.isGuest
        else { throw .noContextID }
        guestCID = configuration.guestCID
        do throws(VirtqueueError) {
            let rings = VirtqueueFeatures(negotiated: negotiated)
            receiveQueue = try Self.makeQueue(memory, VsockDevice.QueueIndex.receive, rings)
            transmitQueue = try Self.makeQueue(memory, VsockDevice.QueueIndex.transmit, rings)
            eventQueue = try Self.makeQueue(memory, VsockDevice.QueueIndex.event, rings)
        } catch {
            throw .queue(error)
        }
        do throws(SystemCallError) {
            try poller.add(calls[VsockDevice.QueueIndex.receive].rawDescriptor, .readable, token: Self.callToken)
            try poller.add(frontend.rawDescriptor, [.readable, .readHangUp], token: Self.frontendToken)
            try poller.add(
                calls[VsockDevice.QueueIndex.transmit].rawDescriptor, .readable, token: Self.transmitCallToken)
            try poller.add(waker.rawDescriptor, .readable, token: Self.wakeToken)
            try poller.add(
                calls[VsockDevice.QueueIndex.event].rawDescriptor, .readable, token: Self.eventCallToken)
        } catch {
            throw .system(error)
        }
        postReceiveSlots()
        receiveQueue.publish()
        _ = receiveQueue.enableInterrupts()
        transmitQueue.disableInterrupts()
        for slot in 0..<memory.eventSlotCount { postEvent(slot) }
        eventQueue.publish()
        _ = eventQueue.enableInterrupts()
        kickReceiveQueue()
        if eventQueue.needsKick() { kicks[VsockDevice.QueueIndex.event].signal() }
    }

    // MARK: A device that comes back

    /// Connects anew to a back-end that has left, and hands it what it, or the one before it, had in flight. The rings
    /// go on where they stand: packets that were queued are sent, buffers that were posted stay posted.
    /// - Throws: when there is no back-end, or it is not the same device any more.
    public func reconnect() throws(VsockDriverError) {
        let next = try VhostUserFrontend(path: path, inflight: frontend.inflight)
        try Self.start(
            next, options, memory: memory, kicks: kicks, calls: calls, channel: backendChannel,
            bases: [receiveQueue.usedIndex, transmitQueue.usedIndex, eventQueue.usedIndex])
        guard next.session.features == negotiatedFeatures, next.configuration == frontend.configuration else {
            throw .session("the device that came back is another one")
        }
        do throws(SystemCallError) {
            try poller.remove(frontend.rawDescriptor)
            try poller.add(next.rawDescriptor, [.readable, .readHangUp], token: Self.frontendToken)
        } catch {
            throw .system(error)
        }
        frontend = next
        // What was made available while nobody was there.
        for kick in kicks { kick.signal() }
    }

    /// Waits a little while there is no back-end, or until ``wakeUp()``.
    public func pause(nanoseconds: UInt64) {
        _ = try? DescriptorIO.waitUntilReady(waker.rawDescriptor, for: .readable, timeoutNanoseconds: nanoseconds)
        waker.drain()
    }

    /// Takes the device's events; true when it says that all connections have ended.
    public func takeTransportReset() throws(VsockDriverError) -> Bool {
        var hasReset = false
        do throws(VirtqueueError) {
            while let used = try eventQueue.popUsed() {
                let bytes = UnsafeRawBufferPointer(memory.eventSlot(used.token))
                if Int(used.writtenByteCount) >= DeviceEvent.byteCount, DeviceEvent(bytes) == .transportReset {
                    hasReset = true
                }
                postEvent(used.token)
            }
        } catch {
            throw .queue(error)
        }
        eventQueue.publish()
        if eventQueue.needsKick() { kicks[VsockDevice.QueueIndex.event].signal() }
        _ = eventQueue.enableInterrupts()
        return hasReset
    }

    /// Buffers that the device has, by queue: all but what it has returned and the driver has taken back.
    public var inFlightCounts: (receive: Int, transmit: Int, event: Int) {
        (receiveQueue.inFlightCount, transmitQueue.inFlightCount, eventQueue.inFlightCount)
    }

    // MARK: Packets to the device

    /// Packets for which there is room.
    public var transmitCapacity: Int { freeTransmitSlots.count }

    /// Takes back the room of packets that the device has dealt with; returns how many.
    @discardableResult
    public func reclaimTransmitted() throws(VsockDriverError) -> Int {
        let before = freeTransmitSlots.count
        do throws(VirtqueueError) {
            while let used = try transmitQueue.popUsed() { freeTransmitSlots.append(used.token) }
        } catch {
            throw .queue(error)
        }
        return freeTransmitSlots.count - before
    }

    /// Asks for ``wait(timeoutNanoseconds:)`` to end when the device has dealt with a packet; true when it has already.
    public func requestTransmitInterrupt() -> Bool { transmitQueue.enableInterrupts() }

    /// Asks for ``awaitInterrupt(timeoutNanoseconds:)`` to end when the device has returned a buffer of the receive
    /// queue; true when it has already.
    public func requestReceiveInterrupt() -> Bool { receiveQueue.enableInterrupts() }

    /// Ends ``wait(timeoutNanoseconds:)``, from any thread.
    public func wakeUp() { waker.signal() }

    /// Queues a packet; `fill` writes its payload of `header.payloadByteCount` bytes, at most 64 KiB. False when there
    /// is no room. The device sees it after ``flush()``.
    public func transmit(
        _ header: PacketHeader, fill: (UnsafeMutableRawBufferPointer) -> Void
    ) throws(VsockDriverError) -> Bool {
        if freeTransmitSlots.isEmpty || header.payloadByteCount >= Self.warmSlotByteCount { try reclaimTransmitted() }
        guard let slot = freeTransmitSlots.popLast() else { return false }
        let area = memory.transmitSlot(slot)
        let byteCount = min(Int(header.payloadByteCount), PacketHeader.maximumPayloadByteCount)
        header.write(to: area)
        fill(UnsafeMutableRawBufferPointer(rebasing: area[PacketHeader.byteCount...].prefix(byteCount)))
        return add(area, byteCount: PacketHeader.byteCount + byteCount, slot)
    }

    /// Queues a packet with a payload that is at hand.
    public func transmit(
        _ header: PacketHeader, payload: UnsafeRawBufferPointer = UnsafeRawBufferPointer(start: nil, count: 0)
    ) throws(VsockDriverError) -> Bool {
        try transmit(header) { area in area.copyMemory(from: UnsafeRawBufferPointer(rebasing: payload[..<area.count])) }
    }

    /// Queues bytes that need not be a packet, for tests of a device.
    public func transmitRaw(_ bytes: [UInt8]) throws(VsockDriverError) -> Bool {
        if freeTransmitSlots.isEmpty { try reclaimTransmitted() }
        guard !bytes.isEmpty, let slot = freeTransmitSlots.popLast() else { return false }
        let area = memory.transmitSlot(slot)
        area.copyBytes(from: bytes.prefix(area.count))
        return add(area, byteCount: min(bytes.count, area.count), slot)
    }

    /// Shows the device what was queued, and kicks it when it wants to be.
    public func flush() {
        guard hasUnpublishedPackets else { return }
        hasUnpublishedPackets = false
        transmitQueue.publish()
        if transmitQueue.needsKick() { kicks[VsockDevice.QueueIndex.transmit].signal() }
    }

    // MARK: Packets from the device

    /// Hands packets that have come to `body`, whose payload is valid during the call: as many as `limit` says, and of
    /// about `byteLimit` bytes. Returns their number.
    @discardableResult
    public func receive(
        limit: Int = .max, byteLimit: Int = .max, _ body: (PacketHeader, UnsafeRawBufferPointer) -> Void
    ) throws(VsockDriverError) -> Int {
        var count = 0
        var byteCount = 0
        do throws(VirtqueueError) {
            while count < limit, byteCount < byteLimit, let used = try receiveQueue.popUsed() {
                let written = min(Int(used.writtenByteCount), memory.receiveSlotByteCount)
                byteCount += written
                let packet = UnsafeRawBufferPointer(rebasing: memory.receiveSlot(used.token)[..<written])
                if let header = PacketHeader(packet) {
                    // Linux drops packets whose length does not fit the buffer; so does this driver.
                    let payload = UnsafeRawBufferPointer(rebasing: packet[PacketHeader.byteCount...])
                    if Int(header.payloadByteCount) <= payload.count {
                        body(header, UnsafeRawBufferPointer(rebasing: payload[..<Int(header.payloadByteCount)]))
                    }
                }
                receiveSlots.returned(used.token, byteCount: written - min(written, PacketHeader.byteCount))
                postReceiveSlots()
                count += 1
            }
        } catch {
            throw .queue(error)
        }
        if count > 0 {
            receiveQueue.publish()
            kickReceiveQueue()
        }
        return count
    }

    /// Waits until the device has returned a buffer of the receive queue. False after `timeoutNanoseconds`, or for
    /// ever when that is nil.
    /// - Throws: when the back-end has left.
    public func wait(timeoutNanoseconds: UInt64?) throws(VsockDriverError) -> Bool {
        guard !requestReceiveInterrupt() else { return true }
        switch try awaitInterrupt(timeoutNanoseconds: timeoutNanoseconds) {
        case .timedOut: return false
        case .interrupted: return true
        case .hasLeft:
            // What it has sent before comes first.
            guard requestReceiveInterrupt() else { throw .session("the back-end has left") }
            return true
        }
    }

    /// How a wait for the device has ended.
    public enum InterruptOutcome: Sendable {
        /// One of the interrupts that were asked for has come, or ``wakeUp()``.
        case interrupted
        /// The back-end has left; packets of it may still be there.
        case hasLeft
        /// The time is over.
        case timedOut
    }

    /// Waits for the interrupts that were asked for, for `timeoutNanoseconds` at most or for ever when that is nil,
    /// without a look at the queues, which other threads may use meanwhile.
    /// - Throws: ``VsockDriverError/system(_:)`` when epoll_wait(2) fails.
    public func awaitInterrupt(timeoutNanoseconds: UInt64?) throws(VsockDriverError) -> InterruptOutcome {
        do throws(SystemCallError) {
            guard try poller.wait(into: &pollEvents, timeoutNanoseconds: timeoutNanoseconds) > 0 else {
                return .timedOut
            }
        } catch {
            throw .system(error)
        }
        var outcome = InterruptOutcome.interrupted
        for index in 0..<pollEvents.count {
            switch pollEvents[index].token {
            case Self.frontendToken: outcome = .hasLeft
            case Self.transmitCallToken: calls[VsockDevice.QueueIndex.transmit].drain()
            case Self.wakeToken: waker.drain()
            case Self.eventCallToken: calls[VsockDevice.QueueIndex.event].drain()
            default: calls[VsockDevice.QueueIndex.receive].drain()
            }
        }
        return outcome
    }

    // MARK: Parts

    private static func start(
        _ frontend: VhostUserFrontend, _ options: Options, memory: DriverMemory, kicks: [EventNotifier],
        calls: [EventNotifier], channel: BackendChannel, bases: [UInt16]
    ) throws(VsockDriverError) {
        let file = memory.memory
        try frontend.start(
            FrontendStartup(
                features: features(options),
                protocolFeatures: [.multipleQueues, .config, .replyAck, .backendRequests, .inflightSharedMemory],
                configurationByteCount: DeviceConfiguration.byteCount, memory: [memory.region],
                queues: bases.enumerated().map { queue, base in
                    FrontendStartup.Queue(size: memory.queueSize, addresses: memory.addresses(queue), base: base)
                },
                inflight: frontend.inflight?.area)
        ) { request in
            switch request {
            case .setMemoryTable: [file.rawDescriptor]
            case .setKick(let queue, _): [kicks[queue].rawDescriptor]
            case .setCall(let queue, _): [calls[queue].rawDescriptor]
            case .setBackendChannel: [channel.remoteDescriptor]
            default: []
            }
        }
    }

    private static func features(_ options: Options) -> UInt64 {
        var features: UInt64 = 1 << 32 | VsockFeatures.stream.rawValue
        if options.acceptsSeqpacket { features |= VsockFeatures.seqpacket.rawValue }
        if options.acceptsEventIndex { features |= VirtqueueFeatures.eventIndexBit }
        return features
    }

    private static func makeNotifiers() throws(SystemCallError) -> [EventNotifier] {
        var notifiers: [EventNotifier] = []
        for _ in 0..<VsockDevice.QueueIndex.count { notifiers.append(try EventNotifier()) }
        return notifiers
    }

    private static func makeQueue(
        _ memory: DriverMemory, _ queue: Int, _ features: VirtqueueFeatures
    ) throws(VirtqueueError) -> DriverQueue {
        DriverQueue(
            layout: try memory.layout(queue), features: features, indirectTables: nil, owner: memory.memory)
    }

    private func add(_ area: UnsafeMutableRawBufferPointer, byteCount: Int, _ slot: Int) -> Bool {
        var buffer = memory.buffer(area, byteCount: byteCount)
        let isAdded = withUnsafePointer(to: &buffer) { buffer in
            transmitQueue.add(
                readable: UnsafeBufferPointer(start: buffer, count: 1),
                writable: UnsafeBufferPointer(start: nil, count: 0), token: slot)
        }
        hasUnpublishedPackets = true
        return isAdded
    }

    private func postReceiveSlots() {
        while let slot = receiveSlots.next() {
            var buffer = memory.buffer(memory.receiveSlot(slot), byteCount: memory.receiveSlotByteCount)
            _ = withUnsafePointer(to: &buffer) { buffer in
                receiveQueue.add(
                    readable: UnsafeBufferPointer(start: nil, count: 0),
                    writable: UnsafeBufferPointer(start: buffer, count: 1), token: slot)
            }
        }
    }

    private func postEvent(_ slot: Int) {
        let buffer = memory.buffer(memory.eventSlot(slot), byteCount: DeviceEvent.byteCount)
        _ = eventQueue.add(readable: [], writable: [buffer], token: slot)
    }

    private func kickReceiveQueue() {
        if receiveQueue.needsKick() { kicks[VsockDevice.QueueIndex.receive].signal() }
    }
}

/// The channel on which a back-end may send requests. A driver has nothing to do for them but must keep it open.
final class BackendChannel: Sendable {
    private let local: SharedFileDescriptor
    private let remote: SharedFileDescriptor

    init() throws(SystemCallError) {
        let pair = try UnixSocket.makePair(.stream, nonBlocking: true)
        local = SharedFileDescriptor(pair.first)
        remote = SharedFileDescriptor(pair.second)
    }

    /// The end that is handed to the back-end.
    var remoteDescriptor: Int32 { remote.rawValue }
}
