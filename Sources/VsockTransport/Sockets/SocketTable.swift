// SPDX-License-Identifier: Apache-2.0
//
// The sockets over one endpoint (Linux: af_vsock.c above a transport): the protocol core, the sockets that applications
// hold, and the ports they are bound to, under one lock.
//
//      application's thread                          carrier's thread
//        send: lock, packets from the application's     lock, deliver: into the socket's
//        buffer into the carrier's slots, flush         queue, wake who waits, flush
//
// There is no thread between an application and its carrier. After every change `pump` sends what the core owes the
// peer and sets the timer. Nobody waits with the lock: see SocketWait.
//
// Files: SocketTable+Packets is the way in and out, TableSocket the calls of applications.

import VsockCore
import VsockSystem
import VsockWire

/// See the top of the file.
final class SocketTable: WakeTimerClient, @unchecked Sendable {
    // Unchecked: everything mutable is guarded by `lock`.

    /// Complete records without a byte that a socket may hold: credit does not bound them.
    static let maximumEmptyRecordCount = 65_536

    /// Connections that may wait to be accepted, whatever listen(2) asks for (Linux: SOMAXCONN).
    static let maximumBacklog = 4096

    let lock = SocketLock()
    @exclusivity(unchecked) var endpoint: Endpoint
    /// The context ID of this side.
    let localCID: VsockAddress.ContextID
    /// The receive buffer of a new socket, in bytes.
    private let bufferByteCount: UInt32
    /// Whether ports below 1024 are refused (EACCES).
    let reservesLowPorts: Bool
    /// Who owns it takes it away in the end, if it owns the table in turn. A weak reference would cost more than a small
    /// packet does.
    @exclusivity(unchecked) var carrier: (any PacketCarrier)?
    /// Whether the peer's driver is there; until then connecting waits.
    var isReady: Bool
    /// Whether the carrier has gone for good.
    @exclusivity(unchecked) var hasFailed = false

    /// Sees the packets, if someone wants to.
    @exclusivity(unchecked) var tap: (any PacketTap)?
    /// Whether both ends of a connection may be here, so that its data needs no packets.
    var carriesDirectly = false
    /// Whether a packet that is delivered has been seen as an outgoing one.
    var tapsOnlyOutgoing = false

    /// By the connection's slot.
    @exclusivity(unchecked) var sockets: [TableSocket?] = []
    /// Bound sockets by port; both types share it.
    var ports: [UInt32: TableSocket] = [:]
    private var nextPort: UInt32
    /// Sockets that wait for room in the carrier.
    var roomWaiters: [TableSocket] = []
    /// Sockets that wait for the peer's driver.
    var readyWaiters: [TableSocket] = []
    /// Signalled when no connection is left.
    private let idle: WaitPoint
    private var lastToken: UInt64 = 0
    private var timerSlot = -1
    @exclusivity(unchecked) private var armedDeadline: Instant?

    init(_ configuration: EndpointConfiguration, isReady: Bool, reservesLowPorts: Bool = false) {
        endpoint = Endpoint(configuration)
        localCID = configuration.localCID
        bufferByteCount = configuration.bufferByteCount
        self.isReady = isReady
        self.reservesLowPorts = reservesLowPorts
        nextPort = configuration.ephemeralPorts.lowerBound
        idle = WaitPoint(lock)
        timerSlot = WakeTimer.shared.register(self)
    }

    deinit { WakeTimer.shared.unregister(timerSlot) }

    /// A new socket.
    func makeSocket(_ type: SocketType) -> TableSocket {
        TableSocket(self, type, SocketSettings(bufferSize: UInt64(bufferByteCount)))
    }

    var now: Instant { Instant(nanoseconds: MonotonicClock.now()) }

    /// Whether a record's payload is consumed before its end has come.
    var drainsOpenRecords: Bool { endpoint.configuration.framing.consumesUnfinishedRecords }

    func nextToken() -> UInt64 {
        lastToken &+= 1
        return lastToken
    }

    func socket(_ id: ConnectionID) -> TableSocket? {
        guard Int(id.slot) < sockets.count, let socket = sockets[Int(id.slot)], socket.id == id else { return nil }
        return socket
    }

    func join(_ socket: TableSocket, _ id: ConnectionID) {
        while sockets.count <= Int(id.slot) { sockets.append(nil) }
        sockets[Int(id.slot)] = socket
        socket.id = id
    }

    func part(_ socket: TableSocket) {
        guard let id = socket.id else { return }
        if sockets[Int(id.slot)] === socket { sockets[Int(id.slot)] = nil }
        socket.id = nil
    }

    // MARK: Ports

    /// A port that nobody is bound to.
    func freePort() throws(SocketError) -> UInt32 {
        let range = endpoint.configuration.ephemeralPorts
        // One attempt more than there can be ports in use finds a free one or there is none.
        for _ in 0...(ports.count + sockets.count) {
            let port = nextPort
            nextPort = port == range.upperBound ? range.lowerBound : port + 1
            if ports[port] == nil { return port }
        }
        throw .addressInUse
    }

    // MARK: Changes of the transport

    /// The peer's driver has come or gone, perhaps with another framing: all connections end, listeners stay.
    func restart(framing: RecordFraming, isReady: Bool) {
        for case let socket? in sockets { socket.transportReset() }
        sockets.removeAll()
        var configuration = endpoint.configuration
        configuration.framing = framing
        endpoint = Endpoint(configuration)
        self.isReady = isReady
        for (port, socket) in ports where socket.state == .listening {
            try? endpoint.listen(socket.type, port: port, backlog: socket.backlog)
        }
        armedDeadline = nil
        wake(&roomWaiters)
        if isReady { wake(&readyWaiters) }
    }

    /// The carrier has gone for good.
    func fail() {
        guard !hasFailed else { return }
        hasFailed = true
        restart(framing: endpoint.configuration.framing, isReady: false)
        for socket in ports.values { socket.waits.signalAll() }
        wake(&readyWaiters)
        signalIfIdle()
    }

    /// Ends all connections with a reset to the peer.
    func resetConnections() {
        for id in endpoint.connectionIDs { endpoint.abort(id) }
        for case let socket? in sockets { socket.transportReset() }
        pump()
    }

    /// Blocks until no connection is left, of those that linger after a close too, or the time has passed.
    func waitForClosed(timeoutNanoseconds: UInt64) {
        let deadline = now.advanced(byNanoseconds: timeoutNanoseconds)
        while true {
            lock.lock()
            let ticket = idle.ticket(.readable)
            let isDone = isIdle
            lock.unlock()
            if isDone || idle.wait(ticket, until: deadline) != .ready { return }
        }
    }

    /// Tells who waits for the end of all connections.
    func signalIfIdle() {
        if isIdle { idle.signal(.readable) }
    }

    private var isIdle: Bool { hasFailed || endpoint.connectionCount == 0 && !endpoint.hasControlPackets }

    func wake(_ waiting: inout [TableSocket]) {
        for socket in waiting { socket.waits.signal(.writable) }
        waiting.removeAll(keepingCapacity: true)
    }

    // MARK: Time

    func timerFired() {
        lock.lock()
        defer { lock.unlock() }
        armedDeadline = nil
        while let expiry = endpoint.expire(now: now) {
            if case .connectTimedOut(let id) = expiry, let socket = socket(id) { socket.connectFailed(.timedOut) }
        }
        pump()
    }

    func armTimer() {
        guard let deadline = endpoint.nextDeadline else { return }
        if let armedDeadline, armedDeadline <= deadline { return }
        armedDeadline = deadline
        WakeTimer.shared.set(timerSlot, deadline)
    }
}
