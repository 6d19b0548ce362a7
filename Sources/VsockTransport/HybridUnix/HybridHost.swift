// SPDX-License-Identifier: Apache-2.0
//
// The host's side of one VM: Unix sockets in the file system, joined to the connections of the device's endpoint.
//
//      PATH             stream clients; CONNECT <port> reaches the guest
//      PATH_seqpacket   seqpacket clients, likewise
//      PATH_<port>      where a host program listens for the guest, of either type
//
// Files: +Delivery takes packets from the guest to the host programs, +Reading the other way, +Closing ends sockets,
// HybridListener and HybridClient receive host programs.

import Logging
import VirtioQueue
import VsockCore
import VsockSystem
import VsockWire

/// See the top of the file.
final class HybridHost: DeviceHost {
    /// Bytes that one socket may send to the guest before the next has its turn and the guest is told. It reads them, from
    /// caches that still hold them, while more is read from the host.
    static let turnByteCount = 64 * 1024
    /// Bytes that all of them may send before the guest's packets and other VMs of the thread have their turn.
    static let roundByteCount = 1 << 20
    /// Largest record taken from a host program: far above what a Unix socket carries with the kernel's defaults.
    static let maximumRecordByteCount = 16 << 20

    let loop: EventLoop
    let log: Logger
    let limits: LimitWatch
    /// What has been copied from the guest's memory since this has happened may not be the guest's.
    let memoryLoss: MemoryLoss
    let path: String
    /// Runs when there may be something for the guest.
    @exclusivity(unchecked) unowned var carrier: LoopTask?
    /// Whether a guest's driver is there.
    var isDriverReady = false
    weak var listener: HybridListener?

    @exclusivity(unchecked) var endpoint: Endpoint
    @exclusivity(unchecked) var sockets: [HostSocket?] = []
    var lingering: [HostSocket] = []
    /// Sockets that have, or may have, data for the guest.
    @exclusivity(unchecked) var readyQueue = SlotQueue()
    var counters = HybridCounters()

    /// Payload of consecutive packets of one connection, on its way to one write.
    @exclusivity(unchecked) var gathering = GatheredPayload()
    /// The connection that it is of. Nil between batches.
    @exclusivity(unchecked) var gatheringSocket: HostSocket?
    /// Records of one read.
    @exclusivity(unchecked) var recordBatch = MessageBatch(capacity: recordBatchLimit)

    /// Where the tails of records go that are larger than the guest's buffers at hand. Pages that are never used
    /// cost nothing.
    lazy var scratch = UnsafeMutableRawBufferPointer.allocate(
        byteCount: Self.maximumRecordByteCount + 1, alignment: 4096)
    @exclusivity(unchecked) var hasScratch = false

    init(
        path: String, endpoint configuration: EndpointConfiguration, limits: LimitWatch, memoryLoss: MemoryLoss,
        loop: EventLoop, log: Logger
    ) {
        self.path = path
        self.limits = limits
        self.memoryLoss = memoryLoss
        self.loop = loop
        self.log = log
        endpoint = Endpoint(configuration)
        endpoint.askForUnboundPorts()
    }

    deinit { if hasScratch { scratch.deallocate() } }

    var socketEntries: [SocketEntry] {
        SocketEntry.all(of: endpoint) { id in
            guard let socket = socket(id) else { return 0 }
            // What the host program has sent and nobody has read waits as well.
            let unread = (try? SocketOptions.unreadByteCount(socket.descriptor.rawValue)) ?? 0
            return unread + socket.stagedByteCount
        }
    }

    var canReceive: Bool { endpoint.canReceive }

    var nextDeadline: Instant? { endpoint.nextDeadline }

    func exclusively<Result>(_ body: () -> Result) -> Result { body() }

    func socket(_ id: ConnectionID) -> HostSocket? {
        guard id.slot >= 0, Int(id.slot) < sockets.count, let socket = sockets[Int(id.slot)], socket.id == id else {
            return nil
        }
        return socket
    }

    func register(_ socket: HostSocket) throws(SystemCallError) {
        let slot = Int(socket.id.slot)
        while sockets.count <= slot { sockets.append(nil) }
        sockets[slot] = socket
        do throws(SystemCallError) {
            socket.watch = try loop.watch(socket.descriptor.rawValue, socket.interest, socket)
        } catch {
            sockets[slot] = nil
            throw error
        }
    }

    // MARK: From the carrier

    /// Takes one packet from the guest; its payload lies in `segments`, which stay valid until ``flush()``.
    func receive(
        _ header: PacketHeader, marker: SequenceHeader?, payload: Range<Int>, in segments: borrowing SegmentList
    ) {
        let reception = endpoint.receive(header, marker: marker, now: loop.now)
        switch reception {
        case .payload(let id, let verdict):
            guard let socket = socket(id) else { return endpoint.abort(id) }
            loop.carried(Int(header.payloadByteCount), through: socket.descriptor.rawValue)
            deliver(socket, verdict, payload: payload, in: segments)
        case .handled:
            break
        case .dropped(let reason):
            if reason == .limitReached { limits.reached(in: endpoint, now: loop.now) }
            log.trace("packet dropped", metadata: ["reason": "\(reason)", "packet": "\(header)"])
        case .requested(let id):
            connectToHost(id, header)
        case .accepted(let id):
            endpoint.abort(id)
        case .connected(let id):
            connected(id)
        case .connectFailed(let id, let error):
            log.debug("guest refused", metadata: ["port": "\(header.sourcePort)", "error": "\(error.name)"])
            if let socket = socket(id) { close(socket) }
        case .peerShutdown(let id, let flags):
            flush()
            if let socket = socket(id) { guestShutdown(socket, flags) }
        case .reset(let id, let cause):
            flush()
            if cause != .byPeer {
                log.warning("connection reset", metadata: ["cause": "\(cause)", "packet": "\(header)"])
            }
            if let socket = socket(id) { guestClosed(socket) }
        }
    }

    /// The guest's driver has gone, or a new one has come: all connections end.
    func restart(framing: RecordFraming) {
        for case let socket? in sockets { guestClosed(socket) }
        // Sockets that linger keep their connection's name, which must not become that of a new one.
        endpoint.restart(framing: framing)
    }

    /// Ends all connections with a reset to the guest, for a daemon that stops.
    func resetConnections() {
        for id in endpoint.connectionIDs {
            if let socket = socket(id) { close(socket) }
            endpoint.abort(id)
        }
        for socket in lingering { close(socket) }
    }

    /// Timers of connections that have run out.
    func expire() {
        while let expiry = endpoint.expire(now: loop.now) {
            switch expiry {
            case .connectTimedOut(let id):
                log.debug("guest did not answer a connection request")
                if let socket = socket(id) { close(socket) }
            case .closeTimedOut:
                log.debug("guest did not end a closed connection")
            }
        }
    }

    // MARK: From the loop

    func ready(_ socket: HostSocket, _ events: PollEvents) {
        if !events.isDisjoint(with: [.readable, .readHangUp, .hangUp, .error]) {
            socket.isReadable = true
            if !events.isDisjoint(with: [.readHangUp, .hangUp, .error]) { socket.sawReadHangUp = true }
            switch socket.phase {
            case .open where socket.isReadClosed && !events.isDisjoint(with: [.hangUp, .error]):
                // Its end was read before; now the program has closed.
                endpoint.close(socket.id, now: loop.now)
                close(socket)
            case .open: enqueue(socket)
            case .connecting where socket.sawReadHangUp && isHungUp(socket):
                // The client has left before the guest answered.
                endpoint.close(socket.id, now: loop.now)
                close(socket)
            case .lingering where !events.isDisjoint(with: [.hangUp, .error]): close(socket)
            default: break
            }
        }
        if events.contains(.writable), socket.phase != .closed, !socket.isWritable {
            socket.isWritable = true
            drainBacklog(socket)
            updateInterest(socket)
        }
        if let carrier { loop.schedule(carrier) }
    }

    func enqueue(_ socket: HostSocket) {
        guard !socket.isQueued, socket.phase == .open else { return }
        socket.isQueued = true
        readyQueue.append(Int(socket.id.slot))
    }

    func updateInterest(_ socket: HostSocket) {
        guard socket.phase != .closed, let watch = socket.watch else { return }
        // Fails only for a descriptor that is not watched.
        try? loop.modify(watch, socket.descriptor.rawValue, socket.interest)
    }

    /// Whether the host program has closed its socket, not only shut it down.
    func isHungUp(_ socket: HostSocket) -> Bool {
        let events = try? DescriptorIO.waitUntilReady(
            socket.descriptor.rawValue, for: [.readable, .readHangUp], timeoutNanoseconds: 0)
        guard let events else { return true }
        if events.contains(.readHangUp) { socket.sawReadHangUp = true }
        return !events.isDisjoint(with: [.hangUp, .error])
    }
}

/// Counts of a ``HybridHost``, since its start.
struct HybridCounters: Sendable, Equatable {
    /// Guest connections that no host program took.
    var refusedByHost = 0
    /// Empty records from host programs, which the framing in force cannot carry.
    var emptyRecords = 0
    /// Connections that could not go on: a record was too large, there were too many, or the guest's memory was gone.
    var aborted = 0
    /// Sockets cut off because too many waited for slow host programs.
    var lingeringCutOff = 0
    /// Silent clients that were closed because others waited.
    var clientsTurnedAway = 0
    /// Clients closed because they did not say CONNECT in time, or badly.
    var clientsFailed = 0
}
