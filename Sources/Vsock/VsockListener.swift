// SPDX-License-Identifier: Apache-2.0

import VsockCore
import VsockTransport
import VsockWire

/// A listening socket; a sequence of the connections that come.
///
/// Connections are established before they are taken from the sequence, up to the backlog; what exceeds it is refused.
/// Several tasks may take connections: each gets others. The sequence ends when the listener is closed, and throws when
/// its task is cancelled, when the transport goes, and when the process has no descriptor left for a connection; after
/// the latter, and after a cancellation, it can be iterated again, and no connection is lost. The listener is closed
/// with its last reference.
public final class VsockListener: Sendable, AsyncSequence {
    private let socket: any ConnectibleSocket
    private let transport: VsockTransport

    private init(_ socket: any ConnectibleSocket, _ transport: VsockTransport) {
        self.socket = socket
        self.transport = transport
    }

    deinit { socket.close() }

    /// Listens on a port: socket(2), bind(2) and listen(2).
    /// - Parameters:
    ///   - type: of the connections; a connection of the other type is refused.
    ///   - port: `.any` for one that is free: see ``address``.
    ///   - cid: `.any`, or the context ID of this side.
    ///   - backlog: one more than this may wait to be taken, as in Linux.
    ///   - transport: the way that connections come, which is opened if it is not open.
    ///   - options: inherited by the connections, for example the buffer size.
    /// - Throws: ``TransportError``; ``SocketError/addressInUse``, also when a listener of the other type has the port;
    ///   ``SocketError/addressNotAvailable``; ``SocketError/accessDenied``.
    public static func bindBlocking(
        _ type: SocketType, port: VsockAddress.Port, cid: VsockAddress.ContextID = .any, backlog: Int = 128,
        on transport: VsockTransport, options: [SocketOption] = []
    ) throws -> VsockListener {
        let listener = VsockListener(try transport.makeSocket(type), transport)
        for option in options { try listener.socket.set(option) }
        try listener.socket.bind(to: VsockAddress(cid: cid, port: port))
        try listener.socket.listen(backlog: backlog)
        return listener
    }

    /// Listens on a port: see ``bindBlocking(_:port:cid:backlog:on:options:)``.
    nonisolated(nonsending) public static func bind(
        _ type: SocketType, port: VsockAddress.Port, cid: VsockAddress.ContextID = .any, backlog: Int = 128,
        on transport: VsockTransport, options: [SocketOption] = []
    ) async throws -> VsockListener {
        try await transport.openSuspended()
        return try bindBlocking(type, port: port, cid: cid, backlog: backlog, on: transport, options: options)
    }

    /// The address that is listened on, getsockname(2). The context ID is the one that was asked for.
    public var address: VsockAddress { socket.localAddress }
    /// Stream or seqpacket, SO_TYPE.
    public var type: SocketType { socket.type }
    /// Options in force, which connections inherit.
    public var settings: SocketSettings { socket.settings }
    /// Readiness now, poll(2): readable when a connection waits.
    public var readiness: SocketReadiness { socket.readiness }

    /// Sets an option, setsockopt(2), for the connections that come from now on; SO_RCVTIMEO holds for ``accept()``.
    /// - Throws: as ``VsockSocket/set(_:)``.
    public func set(_ option: SocketOption) throws(SocketError) { try socket.set(option) }

    /// Waits for a connection, accept(2).
    /// - Throws: ``SocketError/wouldBlock`` after SO_RCVTIMEO, ``SocketError/badDescriptor`` after a close,
    ///   ``SocketError/cancelled``, ``SocketError/noDevice`` when the transport has gone.
    nonisolated(nonsending) public func accept() async throws(SocketError) -> VsockSocket {
        VsockSocket(try await socket.accept(), transport)
    }

    /// Blocks the thread until a connection comes: see ``accept()``.
    public func acceptBlocking() throws(SocketError) -> VsockSocket {
        VsockSocket(try socket.accept(), transport)
    }

    /// Takes a connection that waits; nil when none does.
    public func acceptWithoutWaiting() throws(SocketError) -> VsockSocket? {
        do throws(SocketError) {
            return VsockSocket(try socket.accept(doesNotWait: true), transport)
        } catch .wouldBlock {
            return nil
        }
    }

    /// Listens no more; connections that wait to be taken are closed.
    public func close() { socket.close() }

    /// The connections.
    public func makeAsyncIterator() -> Iterator { Iterator(listener: self) }

    /// The connections, one after the other.
    public struct Iterator: AsyncIteratorProtocol {
        let listener: VsockListener

        /// The next connection; nil when the listener is closed.
        public mutating func next() async throws -> VsockSocket? {
            try await next(isolation: nil)
        }

        /// The next connection; nil when the listener is closed.
        public mutating func next(
            isolation actor: isolated (any Actor)?
        ) async throws(SocketError) -> VsockSocket? {
            do throws(SocketError) {
                return try await listener.accept()
            } catch .badDescriptor {
                return nil
            }
        }
    }
}
