// SPDX-License-Identifier: Apache-2.0
//
// A socket over a table (Linux: `struct vsock_sock`).
//
//      unconnected --- listen() ---> listening
//          |   ^
//          |   | refused, timed out, given up
//          v   |
//      connecting --- RESPONSE ---> connected --- RST, both directions shut and all read ---> disconnected
//
// and from each of them close() leads to `closed`. What has been received stays readable when disconnected; after it
// comes the end. A transport that goes leaves `failure`, which every call then throws until it is taken (SO_ERROR).
//
// Files: +Connecting, +Sending, +Receiving, +Closing.

import Synchronization
import VsockCore
import VsockSystem
import VsockWire

/// See the top of the file.
final class TableSocket: ConnectibleSocket, @unchecked Sendable {
    // Unchecked: everything mutable is guarded by the table's lock.

    enum State {
        case unconnected
        case connecting
        case connected
        case disconnected
        case listening
        case closed
    }

    let table: SocketTable
    let type: SocketType
    let waits: WaitPoint

    @exclusivity(unchecked) var state = State.unconnected
    @exclusivity(unchecked) var id: ConnectionID?
    var boundCID = VsockAddress.ContextID.any
    var port: UInt32?
    /// Whether the table knows the port as this socket's: an accepted socket only shares its listener's.
    var ownsPort = false
    var peer: VsockAddress?
    @exclusivity(unchecked) var failure: SocketError?
    @exclusivity(unchecked) var localShutdown: ShutdownFlags = []
    @exclusivity(unchecked) var peerShutdown: ShutdownFlags = []
    @exclusivity(unchecked) var settingsInForce: SocketSettings
    // Those of `settingsInForce`, for calls that have not taken the lock yet.
    private let receiveTimeout = Atomic<UInt64>(0)
    private let sendTimeout = Atomic<UInt64>(0)
    let receiveLowWaterMark: Atomic<Int>

    // Data that needs no packets: see DirectPath.
    @exclusivity(unchecked) var outgoing: DirectPath?
    @exclusivity(unchecked) var incoming: DirectPath?
    // For calls that have not taken the lock: they may still use those of a connection that has ended, which live as
    // long as the socket.
    let outgoingPipe = Atomic<UnsafeMutablePointer<DirectPipe>?>(nil)
    let incomingPipe = Atomic<UnsafeMutablePointer<DirectPipe>?>(nil)
    private var ownedPaths: [DirectPath] = []

    // Receiving.
    @exclusivity(unchecked) var queue = ReceiveQueue()
    /// The buffer of a receive that polls, as long as it does.
    @exclusivity(unchecked) var polledBuffer: PolledBuffer?
    /// The beginning of the first record, when a receive that gave up had drained it.
    @exclusivity(unchecked) var stash: [UInt8] = []
    /// The receive that drains the first record into its own buffer; 0 for none.
    @exclusivity(unchecked) var drainingToken: UInt64 = 0
    /// Whether a drain goes to `stash`.
    var drainsToStash = false

    // Sending.
    /// The send that has a record under way; 0 for none.
    @exclusivity(unchecked) var sendingToken: UInt64 = 0
    /// The rest of a record whose send has returned: it fits the peer's buffer, and only room was missing.
    var remainder: [UInt8] = []
    var remainderOffset = 0
    @exclusivity(unchecked) var hasRemainder = false
    @exclusivity(unchecked) var isWaitingForRoom = false
    /// What shutdown() and close() wait for the remainder with.
    var shutdownAfterRemainder: ShutdownFlags = []
    var closesAfterRemainder = false

    // Listening.
    var backlog = 0
    var acceptQueue: [TableSocket] = []

    init(_ table: SocketTable, _ type: SocketType, _ settings: SocketSettings) {
        self.table = table
        self.type = type
        settingsInForce = settings
        receiveTimeout.store(settings.receiveTimeoutNanoseconds, ordering: .relaxed)
        sendTimeout.store(settings.sendTimeoutNanoseconds, ordering: .relaxed)
        receiveLowWaterMark = Atomic(settings.receiveLowWaterMark)
        waits = WaitPoint(table.lock)
    }

    /// Data crosses without packets, for the time being.
    func use(outgoing: DirectPath, incoming: DirectPath) {
        ownedPaths += [outgoing, incoming]
        self.outgoing = outgoing
        self.incoming = incoming
        outgoingPipe.store(outgoing.pipe, ordering: .releasing)
        incomingPipe.store(incoming.pipe, ordering: .releasing)
    }

    // MARK: Questions

    var localAddress: VsockAddress {
        table.lock.withLock {
            let cid = state == .connected || state == .disconnected ? table.localCID : boundCID
            return VsockAddress(cid: cid, port: port.map { VsockAddress.Port(rawValue: $0) } ?? .any)
        }
    }

    var peerAddress: VsockAddress? {
        table.lock.withLock { state == .connected || state == .disconnected ? peer : nil }
    }

    var settings: SocketSettings { table.lock.withLock { settingsInForce } }

    var receiveTimeoutNanoseconds: UInt64 { receiveTimeout.load(ordering: .relaxed) }

    var sendTimeoutNanoseconds: UInt64 { sendTimeout.load(ordering: .relaxed) }

    var unreadByteCount: Int { table.lock.withLock { unreadNow + stash.count } }

    var unsentByteCount: Int { table.lock.withLock { remainder.count - remainderOffset } }

    func takeError() -> SocketError? {
        table.lock.withLock {
            defer { failure = nil }
            return failure
        }
    }

    var readiness: SocketReadiness {
        table.lock.withLock {
            askForCredit()
            let ready = readinessNow
            // Nobody else would look for a while, and the caller may sleep now.
            guard !ready.contains(.readable), let carrier = table.carrier, carrier.isPolled else { return ready }
            _ = carrier.poll(byteCount: 1)
            return readinessNow
        }
    }

    func readinessTicket(_ kind: WaitKind) -> WaitTicket {
        table.lock.withLock {
            if kind != .readable {
                askForCredit()
                outgoing?.pipe.pointee.awaitRoom(1)
            }
            if kind != .writable { incoming?.pipe.pointee.awaitData() }
            return waits.ticket(kind)
        }
    }

    /// Asks the peer for credit if there is none; its coming is an event.
    private func askForCredit() {
        guard let id, state == .connected, table.endpoint.sendableByteCount(id) == 0 else { return }
        table.pump()
    }

    /// As vsock_poll() of af_vsock.c, but that the end of both directions is a hang-up, whoever has ended them: who
    /// waits for no data would not learn otherwise that the peer has gone.
    private var readinessNow: SocketReadiness {
        var ready: SocketReadiness = []
        if failure != nil { ready.insert(.error) }
        switch state {
        case .listening:
            if !acceptQueue.isEmpty || table.hasFailed { ready.insert(.readable) }
            return ready
        case .connecting:
            return ready
        case .closed:
            return ready.union([.writable, .hangUp])
        case .unconnected:
            ready.insert(.writable)
            return ready
        case .connected, .disconnected:
            break
        }
        if isReadable { ready.insert(.readable) }
        if hasEnded || localShutdown.contains(.receive) {
            ready.formUnion([.readable, .readHangUp])
            let takesNothing = localShutdown.contains(.send) || peerShutdown.contains(.receive)
            if takesNothing || state == .disconnected { ready.insert(.hangUp) }
        }
        if isWritable { ready.insert(.writable) }
        return ready
    }

    private var isWritable: Bool {
        if localShutdown.contains(.send) { return false }
        guard state == .connected, let id, let snapshot = table.endpoint.snapshot(id) else { return true }
        if peerShutdown.contains(.receive) { return true }
        if let outgoing { return outgoing.pipe.pointee.hasRoom }
        return snapshot.credit.peerFreeByteCount > 0 && !hasRemainder && sendingToken == 0 && !isWaitingForRoom
    }

    // MARK: Waiting

    func wait(_ ticket: WaitTicket, until deadline: Instant?) -> WaitOutcome { waits.wait(ticket, until: deadline) }

    nonisolated(nonsending) func waitSuspended(_ ticket: WaitTicket, until deadline: Instant?) async -> WaitOutcome {
        await waits.waitSuspended(ticket, until: deadline)
    }

    // MARK: Options

    func set(_ option: SocketOption) throws(SocketError) {
        table.lock.lock()
        defer { table.lock.unlock() }
        switch option {
        case .bufferSize(let size):
            setBuffer(size)
        case .bufferMinimumSize(let size):
            settingsInForce.bufferMinimumSize = size
            setBuffer(settingsInForce.bufferSize)
        case .bufferMaximumSize(let size):
            settingsInForce.bufferMaximumSize = size
            setBuffer(settingsInForce.bufferSize)
        case .connectTimeout(let time):
            settingsInForce.connectTimeoutNanoseconds = try Self.time(
                time, zero: EndpointConfiguration.defaultConnectTimeoutNanoseconds)
        case .receiveTimeout(let time):
            settingsInForce.receiveTimeoutNanoseconds = try Self.time(time, zero: 0)
            receiveTimeout.store(settingsInForce.receiveTimeoutNanoseconds, ordering: .relaxed)
        case .sendTimeout(let time):
            settingsInForce.sendTimeoutNanoseconds = try Self.time(time, zero: 0)
            sendTimeout.store(settingsInForce.sendTimeoutNanoseconds, ordering: .relaxed)
        case .receiveLowWaterMark(let count):
            settingsInForce.receiveLowWaterMark = try settingsInForce.lowWaterMark(count, type)
            receiveLowWaterMark.store(settingsInForce.receiveLowWaterMark, ordering: .relaxed)
            waits.signal(.readable)
        }
    }

    /// Linux's order: the minimum first, then the maximum, which wins.
    private func setBuffer(_ size: UInt64) {
        settingsInForce.bufferSize =
            min(max(size, settingsInForce.bufferMinimumSize), settingsInForce.bufferMaximumSize)
        guard id != nil else { return }
        settleIncoming()
        offerBuffer()
        table.pump()
    }

    /// Makes the buffer size that of the connection, on whose wire it has 32 bits.
    func offerBuffer() {
        settingsInForce.bufferSize = min(settingsInForce.bufferSize, UInt64(UInt32.max))
        guard let id else { return }
        table.endpoint.setBuffer(id, byteCount: UInt32(clamping: settingsInForce.bufferSize))
    }

    private static func time(_ time: Duration, zero: UInt64) throws(SocketError) -> UInt64 {
        guard let nanoseconds = time.wholeNanoseconds else { throw .outOfRange }
        return nanoseconds == 0 ? zero : nanoseconds
    }
}
