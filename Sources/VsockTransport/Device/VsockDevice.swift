// SPDX-License-Identifier: Apache-2.0
//
// The vhost-user-vsock device of one VM (Linux: drivers/vhost/vsock.c). It joins the queues in guest memory, the
// protocol core, and the host's sockets:
//
//      guest's transmit queue (1) --> endpoint --> host sockets        VsockDevice+Transmit
//      guest's receive queue  (0) <-- endpoint <-- host sockets        VsockDevice+Receive
//      event queue            (2) <-- what a device before this one has left  VsockDevice+Events
//
// Where the VM has siblings, RoutingHost splits both ways between the host sockets and SiblingHost.
//
// The device outlives the VM's monitor: VhostUserServer joins it to one vhost-user session after another, and the
// host's sockets stay. All of it belongs to one event loop. A ring that breaks the rules stops the device until the
// monitor sets it up anew; other devices go on.

import Logging
import VirtioQueue
import VsockCore
import VsockSystem
import VsockWire

/// What the device has to say to the monitor and the driver that it serves.
protocol VsockDeviceFrontend: AnyObject {
    /// Signals the queue's call descriptor.
    func notify(queue: Int)
    /// Reports a queue that is broken: its error descriptor is signalled.
    func reportBroken(queue: Int, _ error: VirtqueueError)
    /// Some of the guest's memory, or of what the monitor keeps for the device, is gone: the session ends.
    func memoryLost()
}

/// See the top of the file.
final class VsockDevice: LoopTask {
    /// Queue indices of a socket device: virtio 1.3 "Socket Device / Virtqueues".
    enum QueueIndex {
        static let receive = 0
        static let transmit = 1
        static let event = 2
        static let count = 3
    }

    let configuration: VsockDeviceConfiguration
    let loop: EventLoop
    let log: Logger
    let hostSide: any DeviceHost
    /// The host programs' sockets, when the host is the file system.
    private let listener: HybridListener?
    private let hybridHost: HybridHost?
    let limits: LimitWatch
    /// The other guests, when there are any that it may reach.
    private let siblings: SiblingHost?

    @exclusivity(unchecked) var memory: GuestMemory?
    @exclusivity(unchecked) var receiveQueue: RunningQueue?
    @exclusivity(unchecked) var transmitQueue: RunningQueue?
    var eventQueue: RunningQueue?
    /// Whether the driver has connections of a device before this one, and has not been told of their end.
    var owesTransportReset = false
    /// Whether the monitor is about to start the event queue.
    private var awaitsEventQueue = false
    @exclusivity(unchecked) var buffers: GuestBuffers?
    /// Sees the packets of both queues, if someone wants to.
    private(set) var tap: (any PacketTap)? {
        didSet { buffers?.tap = tap }
    }
    private let traceLog: PacketTraceLog?
    weak var frontend: (any VsockDeviceFrontend)?
    /// What the session's mappings report.
    let memoryLoss: MemoryLoss
    /// How much of the thread the monitor has had.
    let monitorPace: MonitorPace

    /// The segments of the transmit chains at hand; a chain of Linux has at most 19 of them.
    @exclusivity(unchecked) var segments: SegmentList
    /// Chains with more segments than the limit that the loop has not reported yet.
    var unreportedLongChainCount = 0
    /// Whether the guest has to post receive buffers before anything can go on.
    @exclusivity(unchecked) var isStarved = false
    /// Kicks since the device has last found something that the driver has added.
    private(set) var vainKickCount = 0
    private var positionsAtKick = QueuePositions()
    /// Whether packets of the guest wait until it has taken replies.
    @exclusivity(unchecked) var waitsForReplies = false
    @exclusivity(unchecked) var counters = VsockDeviceCounters()
    /// When the driver is told that it has its packets back.
    @exclusivity(unchecked) var interrupts = InterruptModeration()
    /// Which way the payload goes.
    @exclusivity(unchecked) var alternation = TrafficAlternation()
    /// Where the driver left the transmit queue when it was stopped: a driver that goes on from there has only been
    /// paused, and its connections live.
    private var transmitIndexAtStop: UInt16?

    /// Creates the device and the host's sockets; `links` are the guests that it reaches.
    init(
        _ configuration: VsockDeviceConfiguration, links: SiblingLinks?, loop: EventLoop, log: Logger
    ) throws(SystemCallError) {
        self.configuration = configuration
        self.loop = loop
        self.log = log
        segments = SegmentList(capacity: configuration.limits[.chainSegments])
        let limits = LimitWatch(configuration.limits, log: log)
        self.limits = limits
        monitorPace = MonitorPace(limits, loop: loop)
        let memoryLoss = MemoryLoss()
        self.memoryLoss = memoryLoss
        let endpoint = configuration.endpoint
        let host = HybridHost(
            path: configuration.hybridPath, endpoint: endpoint, limits: limits, memoryLoss: memoryLoss, loop: loop,
            log: log)
        siblings = links.map {
            SiblingHost($0, endpoint: endpoint, limits: limits, memoryLoss: memoryLoss, loop: loop, log: log)
        }
        hybridHost = host
        hostSide = siblings.map { RoutingHost(host: host, siblings: $0) } ?? host
        listener = try HybridListener(
            host, mode: configuration.socketMode, owner: configuration.socketOwner,
            clientTimeoutNanoseconds: configuration.clientTimeoutNanoseconds, loop: loop, log: log)
        traceLog = PacketTraceLog(log)
        super.init()
        setTap(configuration.tap)
        hostSide.carrier = self
    }

    /// Creates the device over a host of the caller's.
    init(_ configuration: VsockDeviceConfiguration, host: any DeviceHost, loop: EventLoop, log: Logger) {
        self.configuration = configuration
        self.loop = loop
        self.log = log
        segments = SegmentList(capacity: configuration.limits[.chainSegments])
        limits = LimitWatch(configuration.limits, log: log)
        monitorPace = MonitorPace(limits, loop: loop)
        memoryLoss = MemoryLoss()
        hostSide = host
        hybridHost = nil
        listener = nil
        siblings = nil
        traceLog = PacketTraceLog(log)
        super.init()
        setTap(configuration.tap)
        host.carrier = self
    }

    /// Lets `tap` see the packets of both queues, besides a log of level `trace`.
    func setTap(_ tap: (any PacketTap)?) { self.tap = PacketTapGroup.joining([traceLog, tap]) }

    /// How the limits stand.
    var limitEntries: [LimitEntry] {
        DeviceLimits.Name.allCases.map { name in
            LimitEntry(
                name: name, limit: limits[name], current: current(name), reachedCount: limits.count(name))
        }
    }

    /// What counts against a limit now.
    private func current(_ name: DeviceLimits.Name) -> Int? {
        let connections = (hybridHost?.endpoint.connectionCount ?? 0) + (siblings?.endpoint.connectionCount ?? 0)
        switch name {
        case .connections: return connections
        case .halfOpen: return (hybridHost?.endpoint.halfOpenCount ?? 0) + (siblings?.endpoint.halfOpenCount ?? 0)
        case .silentClients: return listener?.clientCount ?? 0
        case .failedClients: return listener?.failureCount ?? 0
        // What the connections may come to hold is set aside for them.
        case .queuedBytes: return connections * configuration.connectionByteCount
        case .lingering: return hybridHost?.lingering.count ?? 0
        case .siblingMessages: return siblings?.inbox.count ?? 0
        case .failedRequests: return siblings?.failureCount ?? 0
        case .monitorMilliseconds: return monitorPace.spentMilliseconds
        case .memoryRegions: return memory?.regions.count ?? 0
        case .queuedRecords, .chainSegments: return nil
        }
    }

    /// Whether the driver's queues run.
    var isReady: Bool { receiveQueue != nil && transmitQueue != nil && memory != nil }

    // MARK: From the session

    /// A queue has been set up and enabled. `isSeqpacketNegotiated` decides the record framing.
    /// A queue that `isContinued` has only been moved; `awaitsEventQueue` when that queue is not running yet, but will.
    func startQueue(
        _ index: Int, ring: consuming DeviceQueue, base: UInt16, isSeqpacketNegotiated: Bool, isContinued: Bool,
        awaitsEventQueue: Bool
    ) {
        // A driver that does not start at 0 has run before, unless it has come round to it.
        let hasPast = ring.nextAvailableIndex != 0 || ring.continuesRecord
        let queue = RunningQueue(ring: ring)
        switch index {
        case QueueIndex.receive:
            receiveQueue = queue
        case QueueIndex.transmit:
            transmitQueue = queue
            let isResumed = isContinued || (transmitIndexAtStop == base && base != 0)
            if !isResumed {
                hostSide.restart(framing: configuration.seqpacket.framing(isNegotiated: isSeqpacketNegotiated))
                owesTransportReset = hasPast
                // The device before this one may have put an interrupt off.
                if hasPast { interrupt() }
                self.awaitsEventQueue = awaitsEventQueue
            }
        default:
            eventQueue = queue
            self.awaitsEventQueue = false
        }
        rejoin()
    }

    /// A queue is stopped; returns the index from which it can be continued.
    func stopQueue(_ index: Int) -> UInt16 {
        var base: UInt16 = 0
        switch index {
        case QueueIndex.receive:
            base = receiveQueue?.ring.nextAvailableIndex ?? 0
            receiveQueue = nil
        case QueueIndex.transmit:
            base = transmitQueue?.ring.nextAvailableIndex ?? 0
            if let transmitQueue {
                transmitIndexAtStop = base
                decideInterrupt(transmitQueue)
            }
            transmitQueue = nil
        default:
            base = eventQueue?.ring.nextAvailableIndex ?? 0
            eventQueue = nil
        }
        rejoin()
        return base
    }

    /// Guest memory has changed; queues that run on are set up anew by the caller.
    func setMemory(_ memory: GuestMemory?) {
        self.memory = memory
        rejoin()
    }

    /// The driver is gone for good: the monitor has left, or has reset the device.
    func driverLeft() {
        receiveQueue = nil
        transmitQueue = nil
        eventQueue = nil
        transmitIndexAtStop = nil
        owesTransportReset = false
        rejoin()
        hostSide.restart(framing: .none)
    }

    /// Ends the device: connections are reset towards the guest, sockets are removed.
    func stop() {
        hostSide.resetConnections()
        // The guest may have posted buffers since.
        isStarved = false
        processReceiveQueue()
        tap?.batchEnded()
        if let transmitQueue { decideInterrupt(transmitQueue) }
        driverLeft()
        listener?.stop()
        siblings?.stop()
        loop.forget(self)
        loop.forget(monitorPace)
        hostSide.carrier = nil
    }

    private func rejoin() {
        if let receiveQueue, let memory, transmitQueue != nil {
            buffers = GuestBuffers(queue: receiveQueue, memory: memory, memoryLoss: memoryLoss, tap: tap)
        } else {
            buffers = nil
        }
        isStarved = false
        let wasReady = hostSide.isDriverReady
        hostSide.isDriverReady = isReady
        if isReady != wasReady { log.info(isReady ? "guest driver ready" : "guest driver stopped") }
        loop.schedule(self)
    }

    // MARK: From the loop

    override func run() -> Bool {
        hostSide.exclusively {
            let hasMore = runExclusively()
            guard memoryLoss.hasHappened else { return hasMore }
            frontend?.memoryLost()
            return hasMore && isReady
        }
    }

    /// A connection that is made before the guest reads the event would end with it.
    var takesPackets: Bool { isReady && !(owesTransportReset && awaitsEventQueue) }

    private func runExclusively() -> Bool {
        guard takesPackets else {
            decideLateInterrupt()
            updateDeadline()
            return false
        }
        sendEvents()
        let hasMore = hostSide.isPolled ? false : processTransmitQueue()
        decideLateInterrupt()
        reportLongChains()
        processReceiveQueue()
        tap?.batchEnded()
        if let isAlternating = alternation.batchEnded() { loop.expectAnswer(isAlternating) }
        updateDeadline()
        let hasRoomForReplies = waitsForReplies && hostSide.canReceive
        return hasMore || hasRoomForReplies || (hostSide.hasOutput && !isStarved && isReady)
    }

    /// The driver has to be told without another batch.
    private func decideLateInterrupt() {
        guard let transmitQueue, let deadline = interrupts.deadline, deadline <= loop.now else { return }
        decideInterrupt(transmitQueue)
    }

    override func deadlinePassed() {
        hostSide.expire()
        loop.schedule(self)
    }

    /// The driver has kicked a queue.
    func kicked(_ index: Int) {
        hostSide.exclusively {
            let positions = QueuePositions(
                receive: receiveQueue?.ring.nextAvailableIndex, transmit: transmitQueue?.ring.nextAvailableIndex,
                event: eventQueue?.ring.nextAvailableIndex)
            vainKickCount = positions == positionsAtKick ? vainKickCount + 1 : 0
            positionsAtKick = positions
            if index == QueueIndex.receive { isStarved = false }
        }
        loop.schedule(self)
    }

    /// How far the device has come in each queue that runs.
    private struct QueuePositions: Equatable {
        var receive: UInt16?
        var transmit: UInt16?
        var event: UInt16?
    }

    private func updateDeadline() {
        let interrupt = transmitQueue == nil ? nil : interrupts.deadline
        loop.setDeadline(Instant.earliest(hostSide.nextDeadline, interrupt), for: self)
    }

    func queueBroke(_ index: Int, _ error: VirtqueueError) {
        log.error("queue broken; the device is stopped", metadata: ["queue": "\(index)", "error": "\(error)"])
        counters.brokenQueues += 1
        frontend?.reportBroken(queue: index, error)
        driverLeft()
    }
}

/// Counts of a device, since its start.
struct VsockDeviceCounters: Sendable, Equatable {
    /// Transmit chains that held no packet: malformed, or shorter than they said.
    var malformedChains = 0
    /// Queues that broke the rules of virtio.
    var brokenQueues = 0
    /// Notifications sent to the driver.
    var notifications = 0
}
