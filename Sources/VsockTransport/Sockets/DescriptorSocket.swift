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
    var watch: DescriptorWatch?
    var listener: UnixListener?
    var boundPort: UInt32?
    var hybridLocal: UInt32?
    var hybridPeer: UInt32?
    var isClosed = false
    /// Threads that are in the kernel with a record; see +KernelRecords.
    var kernelRecordCount = 0
    /// SO_SNDTIMEO of the kernel's socket.
    var kernelSendTimeout: UInt64 = 0
    var settingsInForce = SocketSettings()
    /// SO_SNDBUF of a hybrid socket, if the application has asked for one.
    var hybridSendBuffer: Int?

    /// A socket of the running kernel.
    /// - Throws: EAFNOSUPPORT (as ``SocketError/system(errno:)``) if it has no vsock.
    public convenience init(kernel type: SocketType) throws(SocketError) {
        let unixType: UnixSocketType = type == .stream ? .stream : .seqpacket
        do throws(SystemCallError) {
            let descriptor = try VsockKernelSocket.make(type: unixType.rawValue, nonBlocking: true)
            self.init(.kernel, type)
            adopt(descriptor)
            if let size = try? VsockKernelSocket.buffer(self.watch?.descriptor.rawValue ?? -1, .size) {
                settingsInForce = SocketSettings(bufferSize: size)
            }
        } catch {
            throw SocketError(errno: error.errno.rawValue)
        }
    }

    /// A socket through the hybrid device at `path`.
    public convenience init(hybrid type: SocketType, path: String) { self.init(.hybrid(path), type) }

    init(_ family: Family, _ type: SocketType) {
        self.family = family
        self.type = type
        waits = WaitPoint(lock)
    }

    deinit { if let watch { DescriptorLoop.remove(watch) } }

    /// Takes over the descriptor that the socket is from now on.
    func adopt(_ descriptor: consuming OwnedFileDescriptor) {
        if case .hybrid = family { prepareHybrid(descriptor.rawValue) }
        let entry = DescriptorWatch(SharedFileDescriptor(descriptor), waits)
        lock.withLock { watch = entry }
        DescriptorLoop.add(entry)
    }

    /// Runs a call on the descriptor, which lives as long as the call. With the ticket of a wait that misses nothing.
    func withDescriptor<Value>(
        _ kind: WaitKind, _ body: (Int32, WaitTicket) throws(SocketError) -> Value
    ) throws(SocketError) -> Value {
        lock.lock()
        let (entry, ticket, isClosed) = (watch, waits.ticket(kind), isClosed)
        lock.unlock()
        guard !isClosed else { throw .badDescriptor }
        guard let entry else { throw .notConnected }
        return try body(entry.descriptor.rawValue, ticket)
    }

    // MARK: Questions

    /// The address of this side.
    public var localAddress: VsockAddress {
        if case .kernel = family,
            let address = try? withDescriptor(.any, { (raw, _) in try? VsockKernelSocket.localAddress(raw) })
        {
            return VsockAddress(cid: .init(rawValue: address.cid), port: .init(rawValue: address.port))
        }
        return lock.withLock {
            VsockAddress(cid: .host, port: (hybridLocal ?? boundPort).map { .init(rawValue: $0) } ?? .any)
        }
    }

    /// The address of the peer. The context ID of a hybrid device's guest is not known: `any`.
    public var peerAddress: VsockAddress? {
        if case .kernel = family {
            let address = try? withDescriptor(.any) { (raw, _) in try? VsockKernelSocket.peerAddress(raw) }
            return address.flatMap { $0 }.map {
                VsockAddress(cid: .init(rawValue: $0.cid), port: .init(rawValue: $0.port))
            }
        }
        return lock.withLock { hybridPeer.map { VsockAddress(cid: .any, port: .init(rawValue: $0)) } }
    }

    /// Options in force.
    public var settings: SocketSettings { lock.withLock { settingsInForce } }

    /// Readiness now.
    public var readiness: SocketReadiness {
        let wanted: PollEvents = [.readable, .writable, .readHangUp]
        let ready = try? withDescriptor(.any) { (raw, _) in
            var ready = SocketReadiness(
                rawValue: (try? DescriptorIO.waitUntilReady(raw, for: wanted, timeoutNanoseconds: 0))?.rawValue ?? 0)
            // AF_VSOCK has no hang-up for a peer that has closed. A send of nothing puts nothing on the wire, and
            // fails when the peer does not receive.
            if case .kernel = family, ready.contains(.readHangUp), case .failed = DescriptorIO.sendNothing(raw) {
                ready.insert(.hangUp)
            }
            // Unix sockets know no SO_RCVLOWAT.
            if case .hybrid = family, ready.isDisjoint(with: [.readHangUp, .hangUp, .error]),
                settings.receiveLowWaterMark > 1, unreadByteCount < settings.receiveLowWaterMark
            {
                ready.remove(.readable)
            }
            return ready
        }
        return ready ?? []
    }

    /// SIOCINQ.
    public var unreadByteCount: Int {
        ((try? withDescriptor(.any) { (raw, _) in try? SocketOptions.unreadByteCount(raw) }) ?? nil) ?? 0
    }

    /// SIOCOUTQ. The kernel's sockets know it since Linux 6.12; 0 where it is not known.
    public var unsentByteCount: Int {
        guard case .kernel = family else { return 0 }
        return ((try? withDescriptor(.any) { (raw, _) in try? SocketOptions.unsentByteCount(raw) }) ?? nil) ?? 0
    }

    /// SO_ERROR.
    public func takeError() -> SocketError? {
        let errno = try? withDescriptor(.any) { (raw, _) in (try? SocketOptions.takeError(raw)) ?? nil }
        return (errno ?? nil).map { SocketError(errno: $0.rawValue) }
    }

    /// Makes a system call and gives its error the name of the socket's.
    static func call<Value: ~Copyable>(_ body: () throws(SystemCallError) -> Value) throws(SocketError) -> Value {
        do throws(SystemCallError) { return try body() } catch { throw SocketError(errno: error.errno.rawValue) }
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
