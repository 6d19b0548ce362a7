// SPDX-License-Identifier: Apache-2.0
//
// The other guests of the daemon, as one guest sees them. It terminates that guest's connections to its siblings with
// an endpoint of its own, which answers for their context IDs, and exchanges messages with the halves of the other VMs.
// So each guest has its own credit, framing, packet sizes and timers, and one that does not read or answer holds up
// nobody but those who talk to it, connection by connection.
//
// Files: +Receiving takes packets from the guest, +Sending fills its buffers, +Messages is the side of the other VMs.

import Logging
import VirtioQueue
import VsockCore
import VsockSystem
import VsockWire

/// See the top of the file.
final class SiblingHost: LoopTask, DeviceHost {
    /// Segments gathered before they are copied.
    static let gatherLimit = 1024
    /// Requests of siblings that wait until the guest has ended an older connection of the same ports.
    static let maximumDeferredCount = 64

    /// A request that waits.
    struct DeferredRequest {
        var socket: SiblingSocket
        var origin: VsockAddress
        var port: UInt32
        var recordLimit: Int
        var deadline: Instant
    }

    let loop: EventLoop
    let log: Logger
    let limits: LimitWatch
    /// What has been copied from the guest's memory since this has happened may not be the guest's.
    let memoryLoss: MemoryLoss
    let guestCID: VsockAddress.ContextID
    let inbox: SiblingInbox
    weak var carrier: LoopTask?
    var isDriverReady = false

    var endpoint: Endpoint
    var sockets: [SiblingSocket?] = []
    /// Halves that have, or may have, data for the guest.
    var readyQueue = SlotQueue()
    var deferred: [DeferredRequest] = []
    var counters = SiblingCounters()
    /// Requests of the guest that have failed.
    private var failures = RatePerSecond()

    private let neighbours: [UInt32: SiblingInbox]
    /// The ways that have been gone.
    private var routes: [UInt32: SiblingRoute] = [:]
    /// Routes with messages that have not been handed over.
    private var pendingRoutes: [SiblingRoute] = []

    /// Payload segments of consecutive packets of one connection, on their way to one parcel.
    var gathered = SegmentList(capacity: gatherLimit)
    var gatheredByteCount = 0
    var gatheredEnds: [RecordEnd] = []
    weak var gatheringSocket: SiblingSocket?

    init(
        _ links: SiblingLinks, endpoint configuration: EndpointConfiguration, limits: LimitWatch,
        memoryLoss: MemoryLoss, loop: EventLoop, log: Logger
    ) {
        self.limits = limits
        self.memoryLoss = memoryLoss
        var configuration = configuration
        configuration.answersForAnyCID = true
        guestCID = configuration.peerCID ?? .any
        endpoint = Endpoint(configuration)
        endpoint.askForUnboundPorts()
        neighbours = links.neighbours
        inbox = links.inbox
        self.loop = loop
        self.log = log
        super.init()
        inbox.open(self)
    }

    /// The way to a guest; nil when it shares no group with this one.
    func route(to cid: UInt64) -> SiblingRoute? {
        guard let cid = UInt32(exactly: cid), cid != guestCID.rawValue else { return nil }
        if let known = routes[cid] { return known }
        guard let inbox = neighbours[cid] else { return nil }
        let route = SiblingRoute(cid: VsockAddress.ContextID(rawValue: cid), inbox: inbox)
        routes[cid] = route
        return route
    }

    func socket(_ id: ConnectionID) -> SiblingSocket? {
        guard id.slot >= 0, Int(id.slot) < sockets.count, let socket = sockets[Int(id.slot)], socket.id == id else {
            return nil
        }
        return socket
    }

    /// Gives a half its connection.
    func register(_ socket: SiblingSocket, _ id: ConnectionID) {
        socket.id = id
        let slot = Int(id.slot)
        while sockets.count <= slot { sockets.append(nil) }
        sockets[slot] = socket
    }

    // MARK: Messages of the batch at hand

    /// Tells the other half something, at the end of the batch.
    func post(_ event: SiblingEvent, from socket: SiblingSocket) {
        guard let peer = socket.peer, let route = socket.route else { return }
        if route.append(SiblingMessage(target: peer, event: event)) { pendingRoutes.append(route) }
    }

    /// Ends the batch.
    func deliver() {
        for route in pendingRoutes { route.deliver() }
        pendingRoutes.removeAll(keepingCapacity: true)
    }

    /// Takes the messages that have come.
    override func run() -> Bool {
        for message in inbox.take() { receive(message.event, for: message.target) }
        deliver()
        if let carrier { loop.schedule(carrier) }
        return false
    }

    // MARK: DeviceHost

    var socketEntries: [SocketEntry] {
        SocketEntry.all(of: endpoint) { socket($0)?.queue.byteCount ?? 0 }
    }

    var canReceive: Bool { endpoint.canReceive }

    var hasOutput: Bool { endpoint.hasControlPackets || !readyQueue.isEmpty }

    var nextDeadline: Instant? {
        // Requests wait in the order in which they came, each as long as the others.
        return Instant.earliest(endpoint.nextDeadline, deferred.first?.deadline)
    }

    func exclusively<Result>(_ body: () -> Result) -> Result { body() }

    func flush() {
        handOverGathered()
        deliver()
    }

    func restart(framing: RecordFraming) {
        for case let socket? in sockets {
            post(socket.phase == .connecting ? .refused : .closed, from: socket)
            forget(socket)
        }
        refuseDeferred { _ in true }
        endpoint.restart(framing: framing)
        deliver()
    }

    func resetConnections() {
        for id in endpoint.connectionIDs {
            if let socket = socket(id) {
                post(socket.phase == .connecting ? .refused : .closed, from: socket)
                forget(socket)
            }
            endpoint.abort(id)
        }
        refuseDeferred { _ in true }
        deliver()
    }

    func expire() {
        while let expiry = endpoint.expire(now: loop.now) {
            guard case .connectTimedOut(let id) = expiry, let socket = socket(id) else { continue }
            log.debug("guest did not answer a sibling's connection request")
            post(.refused, from: socket)
            forget(socket)
        }
        let now = loop.now
        refuseDeferred { $0.deadline <= now }
        deliver()
    }

    /// Ends the host: siblings are no longer heard.
    func stop() { inbox.close() }

    // MARK: Failed requests

    /// Requests of the guest that have failed in the second at hand.
    var failureCount: Int { failures.count(at: loop.now) }

    /// A sibling has refused a request of the guest.
    func countFailure() {
        failures.add(at: loop.now)
        if failureCount == limits[.failedRequests] { limits.reached(.failedRequests, now: loop.now) }
    }

    // MARK: Ends of halves

    /// The half is over; whoever it concerns has been told.
    func forget(_ socket: SiblingSocket) {
        socket.phase = .closed
        socket.peer = nil
        socket.route = nil
        socket.queue = ParcelQueue()
        if gatheringSocket === socket { dropGathered() }
        guard let slot = socket.id.map({ Int($0.slot) }), slot < sockets.count, sockets[slot] === socket else { return }
        sockets[slot] = nil
    }

    /// Ends a connection that cannot go on, in both guests.
    func abort(_ socket: SiblingSocket, _ reason: String) {
        log.warning(
            "connection between guests reset: \(reason)",
            metadata: ["sibling": "\(socket.route?.cid.rawValue ?? 0)", "socket": "\(socket.type)"])
        counters.aborted += 1
        if let id = socket.id { endpoint.abort(id) }
        post(.aborted, from: socket)
        forget(socket)
    }

    private func refuseDeferred(_ isRefused: (DeferredRequest) -> Bool) {
        for request in deferred where isRefused(request) {
            post(.refused, from: request.socket)
            forget(request.socket)
        }
        deferred.removeAll { $0.socket.phase == .closed }
    }
}

/// Counts of a ``SiblingHost``, since its start.
struct SiblingCounters: Sendable, Equatable {
    /// Connections of siblings that the guest did not take.
    var refused = 0
    /// Connections reset because a record could not be carried.
    var aborted = 0
    /// Empty records of siblings, which the framing in force cannot carry.
    var emptyRecords = 0
}
