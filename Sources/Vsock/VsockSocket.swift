// SPDX-License-Identifier: Apache-2.0
//
// A connected socket, for tasks. Its blocking view is in VsockSocket+Blocking.

import VsockCore
import VsockTransport
import VsockWire

/// A connected vsock socket: a stream of bytes, or records (SOCK_SEQPACKET).
///
/// All methods may be called from any task. The socket is closed with its last reference. A call that waits ends with
/// ``SocketError/cancelled`` when its task is cancelled: a record is then either sent whole or not at all, and none is
/// lost by a receive.
public final class VsockSocket: Sendable {
    let socket: any ConnectibleSocket
    /// Keeps the transport open.
    let transport: VsockTransport

    init(_ socket: any ConnectibleSocket, _ transport: VsockTransport) {
        self.socket = socket
        self.transport = transport
    }

    deinit { socket.close() }

    /// Connects to a port of a peer.
    /// - Parameters:
    ///   - type: `.stream` or `.seqpacket`.
    ///   - address: the peer; its context ID is ignored over `uds`.
    ///   - localPort: the port on this side; nil for any that is free.
    ///   - options: set before connecting, for example the buffer size or the connect timeout.
    /// - Throws: ``TransportError`` when the transport cannot be opened; ``SocketError/connectionReset`` when the peer
    ///   refuses; ``SocketError/timedOut`` after the connect timeout, 2 s unless set;
    ///   ``SocketError/socketTypeNotSupported``, ``SocketError/noDevice``, ``SocketError/addressInUse``.
    nonisolated(nonsending) public static func connect(
        _ type: SocketType, to address: VsockAddress, from localPort: VsockAddress.Port? = nil,
        over transport: VsockTransport, options: [SocketOption] = []
    ) async throws -> VsockSocket {
        let socket = try make(type, localPort, transport, options)
        try await socket.socket.connect(to: address)
        return socket
    }

    static func make(
        _ type: SocketType, _ localPort: VsockAddress.Port?, _ transport: VsockTransport, _ options: [SocketOption]
    ) throws -> VsockSocket {
        let socket = VsockSocket(try transport.makeSocket(type), transport)
        for option in options { try socket.socket.set(option) }
        if let localPort { try socket.socket.bind(to: VsockAddress(cid: .any, port: localPort)) }
        return socket
    }

    // MARK: Data

    /// Sends all bytes, as one record on a seqpacket socket.
    /// - Parameters:
    ///   - bytes: at most the peer's buffer for a record in the standard framing.
    ///   - endOfRecord: MSG_EOR; a stream ignores it.
    /// - Returns: the bytes sent; fewer than given only on a stream whose send timed out or was cancelled.
    /// - Throws: ``SocketError/brokenPipe``, ``SocketError/messageTooLong``, ``SocketError/wouldBlock`` after
    ///   SO_SNDTIMEO, ``SocketError/cancelled``, ``SocketError/connectionReset`` when the transport has gone.
    @discardableResult
    nonisolated(nonsending) public func send(
        _ bytes: [UInt8], endOfRecord: Bool = false
    ) async throws(SocketError) -> Int {
        try await socket.send(bytes, SendOptions(endOfRecord: endOfRecord))
    }

    /// Sends all bytes with flags and a time limit of its own.
    @discardableResult
    nonisolated(nonsending) public func send(
        _ bytes: [UInt8], options: SendOptions
    ) async throws(SocketError) -> Int {
        try await socket.send(bytes, options)
    }

    /// Receives bytes of a stream or one record into the whole of `buffer`.
    /// - Throws: ``SocketError/wouldBlock`` after SO_RCVTIMEO, ``SocketError/cancelled``,
    ///   ``SocketError/connectionReset`` when the transport has gone.
    nonisolated(nonsending) public func receive(
        into buffer: inout [UInt8], options: ReceiveOptions = ReceiveOptions()
    ) async throws(SocketError) -> ReceiveResult {
        try await socket.receive(into: &buffer, options)
    }

    /// Waits for readiness, poll(2); also ends with an error or a hang-up.
    nonisolated(nonsending) public func ready(
        _ events: SocketReadiness
    ) async throws(SocketError) -> SocketReadiness { try await socket.ready(events) }

    // MARK: Ends

    /// Gives up directions: the peer reads the end after what was sent, or can send no more.
    /// - Throws: ``SocketError/notConnected``
    public func shutdown(_ direction: ShutdownDirection) throws(SocketError) { try socket.shutdown(direction) }

    /// Closes the socket; the connection is ended in the background. Calls that wait end with
    /// ``SocketError/badDescriptor``.
    public func close() { socket.close() }

    // MARK: Questions and options

    /// Stream or seqpacket.
    public var type: SocketType { socket.type }
    /// This side's address.
    public var localAddress: VsockAddress { socket.localAddress }
    /// The peer's address; nil after a close.
    public var peerAddress: VsockAddress? { socket.peerAddress }
    /// Options in force.
    public var settings: SocketSettings { socket.settings }
    /// Readiness now, poll(2).
    public var readiness: SocketReadiness { socket.readiness }
    /// SIOCINQ: bytes that wait to be received.
    public var unreadByteCount: Int { socket.unreadByteCount }
    /// SIOCOUTQ: bytes accepted and not yet handed to the transport.
    public var unsentByteCount: Int { socket.unsentByteCount }
    /// SO_ERROR: takes the error that waits on the socket.
    public func takeError() -> SocketError? { socket.takeError() }
    /// Sets an option.
    /// - Throws: ``SocketError/invalidArgument``, ``SocketError/outOfRange``, ``SocketError/notSupported``.
    public func set(_ option: SocketOption) throws(SocketError) { try socket.set(option) }
}
