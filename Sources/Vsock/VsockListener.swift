// SPDX-License-Identifier: Apache-2.0

import VsockCore
import VsockTransport
import VsockWire

/// A listening socket; a sequence of the connections that come.
///
/// Connections are established before they are taken from the sequence, up to the backlog. The sequence ends when the
/// listener is closed, and throws when its task is cancelled or the transport goes.
public final class VsockListener: Sendable, AsyncSequence {
    private let socket: any ConnectibleSocket
    private let transport: VsockTransport

    private init(_ socket: any ConnectibleSocket, _ transport: VsockTransport) {
        self.socket = socket
        self.transport = transport
    }

    deinit { socket.close() }

    /// Listens on a port.
    /// - Parameters:
    ///   - port: `.any` for one that is free: see ``address``.
    ///   - cid: `.any`, or the context ID of this side.
    ///   - backlog: connections that may wait to be taken.
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
        try bindBlocking(type, port: port, cid: cid, backlog: backlog, on: transport, options: options)
    }

    /// The address that is listened on.
    public var address: VsockAddress { socket.localAddress }

    /// Waits for a connection.
    /// - Throws: ``SocketError/badDescriptor`` after a close, ``SocketError/cancelled``, ``SocketError/noDevice`` when
    ///   the transport has gone.
    nonisolated(nonsending) public func accept() async throws(SocketError) -> VsockSocket {
        VsockSocket(try await socket.accept(), transport)
    }

    /// Blocks the thread until a connection comes.
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
