// SPDX-License-Identifier: Apache-2.0
//
// A connected socket, for tasks. Its blocking view is in VsockSocket+Blocking, its buffers in VsockSocket+Buffers.

import VsockCore
import VsockTransport
import VsockWire

/// A connected vsock socket: a stream of bytes, or records (SOCK_SEQPACKET).
///
/// All methods may be called from any task, several at once; of two that send or receive at the same time, each record
/// goes to one as a whole. The socket is closed with its last reference.
///
/// A call that waits ends with ``SocketError/cancelled`` when its task is cancelled. Nothing is lost by that: a receive
/// that has taken bytes of a stream returns them, a record that has not been received whole stays in the socket, and a
/// record is sent whole or not at all.
public final class VsockSocket: Sendable {
    let socket: any ConnectibleSocket
    /// Keeps the transport open.
    let transport: VsockTransport

    init(_ socket: any ConnectibleSocket, _ transport: VsockTransport) {
        self.socket = socket
        self.transport = transport
    }

    deinit { socket.close() }

    /// Connects to a port of a peer, connect(2).
    /// - Parameters:
    ///   - type: `.stream` or `.seqpacket`.
    ///   - address: the peer; its context ID is ignored over `uds`.
    ///   - localPort: the port on this side; nil for any that is free.
    ///   - transport: the way to the peer, which is opened if it is not open.
    ///   - options: set before connecting, for example the buffer size or the connect timeout.
    /// - Throws: ``TransportError`` when the transport cannot be opened; ``SocketError/connectionReset`` when the peer
    ///   refuses; ``SocketError/timedOut`` after the connect timeout, 2 s unless set;
    ///   ``SocketError/socketTypeNotSupported`` when the transport carries no records; ``SocketError/noDevice`` when it
    ///   does not reach the context ID, or nobody serves the path of `uds`; ``SocketError/networkUnreachable``,
    ///   ``SocketError/addressInUse``, ``SocketError/cancelled``.
    nonisolated(nonsending) public static func connect(
        _ type: SocketType, to address: VsockAddress, from localPort: VsockAddress.Port? = nil,
        over transport: VsockTransport, options: [SocketOption] = []
    ) async throws -> VsockSocket {
        try await transport.openSuspended()
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

    /// Sends all bytes, as one record on a seqpacket socket: send(2).
    /// - Parameters:
    ///   - bytes: for a record in the standard framing, at most the peer's buffer. They may change when the call returns.
    ///   - options: MSG_EOR, MSG_DONTWAIT and a time limit; without one SO_SNDTIMEO holds.
    /// - Returns: the bytes sent. Fewer than given only on a stream: with MSG_DONTWAIT, after the time limit, or when the
    ///   task was cancelled. A record is sent whole.
    /// - Throws: ``SocketError/brokenPipe`` when this side has shut down sending or the peer receiving;
    ///   ``SocketError/messageTooLong`` for a record larger than the peer can hold; ``SocketError/wouldBlock`` with
    ///   MSG_DONTWAIT and after the time limit; ``SocketError/cancelled``; ``SocketError/connectionReset`` when the
    ///   transport has gone; ``SocketError/notConnected``, ``SocketError/badDescriptor``.
    @discardableResult
    nonisolated(nonsending) public func send(
        _ bytes: RawSpan, options: SendOptions = SendOptions()
    ) async throws(SocketError) -> Int {
        try await socket.send(bytes, options)
    }

    /// Receives bytes of a stream, or one record, into the whole of `buffer`: recv(2).
    ///
    /// A stream's receive returns when there is a byte (SO_RCVLOWAT), or with MSG_WAITALL when the buffer is full. A
    /// record longer than the buffer is cut, and ``ReceiveResult/truncated`` says so; the next record is intact. The end
    /// of a stream or of the records is ``ReceiveResult/isEnd``.
    /// - Parameters:
    ///   - buffer: what the result does not count keeps its content, or not.
    ///   - options: MSG_PEEK, MSG_DONTWAIT, MSG_WAITALL and a time limit; without one SO_RCVTIMEO holds.
    /// - Throws: ``SocketError/wouldBlock`` with MSG_DONTWAIT and after the time limit; ``SocketError/cancelled``;
    ///   ``SocketError/connectionReset`` when the peer has reset the connection in the middle of something, or the
    ///   transport has gone; ``SocketError/notConnected``, ``SocketError/badDescriptor``.
    nonisolated(nonsending) public func receive(
        into buffer: inout MutableRawSpan, options: ReceiveOptions = ReceiveOptions()
    ) async throws(SocketError) -> ReceiveResult {
        try await socket.receive(into: &buffer, options)
    }

    /// Waits for readiness, poll(2); also ends with an error or a hang-up.
    /// - Returns: those of `events` that hold, and an error or hang-up that came with or instead of them.
    /// - Throws: ``SocketError/cancelled``
    nonisolated(nonsending) public func ready(
        _ events: SocketReadiness
    ) async throws(SocketError) -> SocketReadiness { try await socket.ready(events) }

    // MARK: Ends

    /// Gives up directions, shutdown(2): the peer reads the end after what was sent, or can send no more.
    /// - Throws: ``SocketError/notConnected``, ``SocketError/badDescriptor``.
    public func shutdown(_ direction: ShutdownDirection) throws(SocketError) { try socket.shutdown(direction) }

    /// Closes the socket, close(2); the connection is ended in the background. Calls that wait end with
    /// ``SocketError/badDescriptor``.
    public func close() { socket.close() }

    // MARK: Questions and options

    /// Stream or seqpacket, SO_TYPE.
    public var type: SocketType { socket.type }
    /// This side's address, getsockname(2).
    public var localAddress: VsockAddress { socket.localAddress }
    /// The peer's address, getpeername(2); nil after a close. Over `uds` the context ID is not known: `.any`.
    public var peerAddress: VsockAddress? { socket.peerAddress }
    /// Options in force, getsockopt(2).
    public var settings: SocketSettings { socket.settings }
    /// Readiness now, poll(2).
    public var readiness: SocketReadiness { socket.readiness }
    /// SIOCINQ: bytes that wait to be received, those of all records together. 0 with AF_VSOCK before Linux 6.17, which
    /// does not tell.
    public var unreadByteCount: Int { socket.unreadByteCount }
    /// SIOCOUTQ: bytes accepted and not yet handed to the transport. 0 over `uds` and with AF_VSOCK before Linux 6.12,
    /// which do not tell.
    public var unsentByteCount: Int { socket.unsentByteCount }
    /// SO_ERROR: takes the error that waits on the socket.
    public func takeError() -> SocketError? { socket.takeError() }
    /// Sets an option, setsockopt(2).
    /// - Throws: ``SocketError/invalidArgument`` and ``SocketError/outOfRange`` for a value; ``SocketError/notSupported``
    ///   for a minimum or maximum of the buffer size over `uds`. The buffer size there is SO_SNDBUF of the Unix socket,
    ///   which bounds a record.
    public func set(_ option: SocketOption) throws(SocketError) { try socket.set(option) }
}
