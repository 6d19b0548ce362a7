// SPDX-License-Identifier: Apache-2.0
//
// Sockets that are descriptors: the kernel's AF_VSOCK, and the Unix sockets of a hybrid device, whose convention it
// speaks (CONNECT and OK through PATH or PATH_seqpacket; listeners are PATH_<port>). Waiting is that of all sockets
// here, woken by DescriptorLoop; no call on a descriptor blocks, but for the sends of +KernelRecords.
//
// A Unix socket carries no MSG_EOR. An empty record on it looks like the end: both are 0 bytes. With SO_PASSCRED the
// kernel has credentials to report with every record, but not with the end; there is no room for them here, which it
// says with MSG_CTRUNC. That tells the two apart.
//
// Files: +Connecting, +Data, +KernelRecords, +Options.

import VsockCore
import VsockSystem
import VsockWire

/// See the top of the file.
public final class DescriptorSocket: ConnectibleSocket, @unchecked Sendable {
    // Unchecked: everything mutable is guarded by `lock`.

    enum Family: Sendable {
        case kernel
        case hybrid(String)
    }

    let lock = SocketLock()
    let waits: WaitPoint
    let family: Family
    /// Stream or seqpacket.
    public let type: SocketType
    /// Nil after a close, and before a hybrid socket connects or listens.
    var descriptor: SharedFileDescriptor?
    private var watch: DescriptorWatch?
    var isClosed = false
    var settingsInForce = SocketSettings()

    // Hybrid sockets.
    var listener: UnixListener?
    var boundPort: UInt32?
    var hybridLocal: UInt32?
    var hybridPeer: UInt32?
    /// SO_SNDBUF, if the application has asked for one.
    var hybridSendBuffer: Int?

    /// What the next receive throws: the kernel said it once, after a part of what was asked for.
    var receiveFailure: SocketError?
    /// What the next send throws: it came to a record that nobody waited for any more.
    var sendFailure: SocketError?
    /// See +KernelRecords.
    var recordSending = RecordSending.idle
    var shutdownAfterRecord: ShutdownDirection?
    var lastToken: UInt64 = 0

    /// A socket of the running kernel.
    /// - Throws: EAFNOSUPPORT (as ``SocketError/system(errno:)``) if it has no vsock.
    public convenience init(kernel type: SocketType) throws(SocketError) {
        self.init(.kernel, type)
        let unixType = unixType.rawValue
        let descriptor = try Self.call { () throws(SystemCallError) in
            try VsockKernelSocket.make(type: unixType, nonBlocking: true)
        }
        try adopt(descriptor)
        readKernelSettings()
    }

    /// A socket through the hybrid device at `path`.
    public convenience init(hybrid type: SocketType, path: String) { self.init(.hybrid(path), type) }

    init(_ family: Family, _ type: SocketType) {
        self.family = family
        self.type = type
        waits = WaitPoint(lock)
    }

    deinit { if let watch { DescriptorLoop.remove(watch) } }

    var unixType: UnixSocketType { type == .stream ? .stream : .seqpacket }

    /// Takes over the descriptor that the socket is from now on.
    func adopt(_ descriptor: consuming OwnedFileDescriptor) throws(SocketError) {
        let shared = SharedFileDescriptor(descriptor)
        let entry = try Self.call { () throws(SystemCallError) in try DescriptorLoop.add(shared, waits) }
        lock.lock()
        defer { lock.unlock() }
        guard !isClosed else {
            DescriptorLoop.remove(entry)
            throw .badDescriptor
        }
        self.descriptor = shared
        watch = entry
    }

    /// Runs a call on the descriptor, which lives as long as the call. With the ticket of a wait that misses nothing.
    func withDescriptor<Value: ~Copyable>(
        _ kind: WaitKind, _ body: (Int32, WaitTicket) throws(SocketError) -> Value
    ) throws(SocketError) -> Value {
        lock.lock()
        let (descriptor, ticket, isClosed, hasFailed) = (descriptor, waits.ticket(kind), isClosed, watch?.hasFailed)
        lock.unlock()
        guard !isClosed else { throw .badDescriptor }
        guard let descriptor else { throw .notConnected }
        guard hasFailed != true else { throw .noBufferSpace }
        defer { withExtendedLifetime(descriptor) {} }
        return try body(descriptor.rawValue, ticket)
    }

    /// Makes a system call and gives its error the name of the socket's.
    static func call<Value: ~Copyable>(_ body: () throws(SystemCallError) -> Value) throws(SocketError) -> Value {
        do throws(SystemCallError) { return try body() } catch { throw SocketError(errno: error.errno.rawValue) }
    }

    // MARK: Questions

    /// The address of this side.
    public var localAddress: VsockAddress {
        guard case .kernel = family else {
            return lock.withLock {
                VsockAddress(cid: .host, port: (hybridLocal ?? boundPort).map { .init(rawValue: $0) } ?? .any)
            }
        }
        return kernelAddress(VsockKernelSocket.localAddress) ?? VsockAddress(cid: .any, port: .any)
    }

    /// The address of the peer. The context ID of a hybrid device's guest is not known: `any`.
    public var peerAddress: VsockAddress? {
        guard case .kernel = family else {
            return lock.withLock { hybridPeer.map { VsockAddress(cid: .any, port: .init(rawValue: $0)) } }
        }
        return kernelAddress(VsockKernelSocket.peerAddress)
    }

    private func kernelAddress(
        _ read: (Int32) throws(SystemCallError) -> VsockKernelAddress
    ) -> VsockAddress? {
        let address = try? withDescriptor(.any) { (raw, _) throws(SocketError) in
            try Self.call { () throws(SystemCallError) in try read(raw) }
        }
        return address.map { VsockAddress(cid: .init(rawValue: $0.cid), port: .init(rawValue: $0.port)) }
    }

    /// Readiness now.
    public var readiness: SocketReadiness {
        let wanted: PollEvents = [.readable, .writable, .readHangUp]
        let now = try? withDescriptor(.any) { (raw, _) throws(SocketError) in
            let events = try Self.call { () throws(SystemCallError) in
                try DescriptorIO.waitUntilReady(raw, for: wanted, timeoutNanoseconds: 0)
            }
            var ready = SocketReadiness(rawValue: events.rawValue)
            // AF_VSOCK has no hang-up for a peer that has closed. A send of nothing puts nothing on the wire, and fails
            // when the peer does not receive.
            if case .kernel = family, ready.contains(.readHangUp), case .failed = DescriptorIO.sendNothing(raw) {
                ready.insert(.hangUp)
            }
            return ready
        }
        // What af_vsock says of a socket that has no connection, so that nobody waits for one that is closed.
        guard var ready = now else { return [.writable, .hangUp] }
        let (mark, isSending, hasFailure) = lock.withLock {
            (settingsInForce.receiveLowWaterMark, recordSending.isBusy, receiveFailure != nil || sendFailure != nil)
        }
        if isSending { ready.remove(.writable) }
        if hasFailure { ready.insert(.error) }
        // Unix sockets do not look at SO_RCVLOWAT in poll(2).
        if type == .stream, mark > 1, ready.isDisjoint(with: [.readHangUp, .hangUp, .error]),
            let count = unread, count < mark
        {
            ready.remove(.readable)
        }
        return ready
    }

    /// SIOCINQ; 0 for AF_VSOCK before Linux 6.17, which does not tell.
    public var unreadByteCount: Int { unread ?? 0 }

    private var unread: Int? {
        try? withDescriptor(.any) { (raw, _) throws(SocketError) in
            try Self.call { () throws(SystemCallError) in try SocketOptions.unreadByteCount(raw) }
        }
    }

    /// SIOCOUTQ; 0 for AF_VSOCK before Linux 6.12, which does not tell, and for a Unix socket, which counts memory.
    public var unsentByteCount: Int {
        guard case .kernel = family else { return 0 }
        let count = try? withDescriptor(.any) { (raw, _) throws(SocketError) in
            try Self.call { () throws(SystemCallError) in try SocketOptions.unsentByteCount(raw) }
        }
        return count ?? 0
    }

    /// SO_ERROR.
    public func takeError() -> SocketError? {
        if let error = takeFailure(\.receiveFailure) ?? takeFailure(\.sendFailure) { return error }
        let errno = try? withDescriptor(.any) { (raw, _) throws(SocketError) in
            try Self.call { () throws(SystemCallError) in try SocketOptions.takeError(raw) }
        }
        return (errno ?? nil).map { SocketError(errno: $0.rawValue) }
    }

    func takeFailure(_ path: ReferenceWritableKeyPath<DescriptorSocket, SocketError?>) -> SocketError? {
        lock.withLock {
            defer { self[keyPath: path] = nil }
            return self[keyPath: path]
        }
    }

    // MARK: Ends

    /// shutdown(2), after a record that is on its way.
    public func shutdown(_ direction: ShutdownDirection) throws(SocketError) {
        let isDeferred = lock.withLock {
            guard case .leaving = recordSending, direction != .receive, !isClosed else { return false }
            shutdownAfterRecord = direction
            return true
        }
        guard !isDeferred else { return }
        try withDescriptor(.any) { (raw, _) throws(SocketError) in
            try Self.call { () throws(SystemCallError) in try SocketOptions.shutdown(raw, direction.systemDirection) }
        }
        lock.withLock { waits.signalAll() }
    }

    /// close(2). The descriptor is closed at once, or with the call that still uses it.
    public func close() {
        lock.lock()
        let entry = watch
        let last = (descriptor, listener)
        if recordSending.isAwaited, let descriptor {
            // The call ends with EBADF, and so its record does not go on.
            try? SocketOptions.shutdown(descriptor.rawValue, .both)
        }
        watch = nil
        descriptor = nil
        listener = nil
        isClosed = true
        waits.signalAll()
        lock.unlock()
        // While the descriptor is open: see DescriptorLoop.
        switch (entry, family) {
        case (let entry?, .kernel): DescriptorLoop.removeAndWait(entry)
        case (let entry?, .hybrid): DescriptorLoop.remove(entry)
        case (nil, _): break
        }
        withExtendedLifetime(last) {}
    }

    // MARK: Waiting

    /// A ticket to wait for readiness with.
    public func readinessTicket(_ kind: WaitKind) -> WaitTicket { lock.withLock { waits.ticket(kind) } }

    /// Blocks the thread.
    public func wait(_ ticket: WaitTicket, until deadline: Instant?) -> WaitOutcome {
        waits.wait(ticket, until: deadline)
    }

    /// Suspends the task.
    nonisolated(nonsending) public func waitSuspended(
        _ ticket: WaitTicket, until deadline: Instant?
    ) async -> WaitOutcome { await waits.waitSuspended(ticket, until: deadline) }
}

extension ShutdownDirection {
    var systemDirection: SocketOptions.Direction {
        switch self {
        case .receive: .receive
        case .send: .send
        case .both: .both
        }
    }
}
