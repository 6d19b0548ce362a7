// SPDX-License-Identifier: Apache-2.0
//
// The errors of vsock sockets, named after the errno that Linux gives for the same cause.

/// Why a socket operation failed.
public enum SocketError: Error, Hashable, Sendable {
    /// The peer refused or reset the connection, or the transport has gone. Vsock has no "refused": a port without
    /// listener is reset, too.
    case connectionReset
    /// The peer did not answer in time.
    case timedOut
    /// This side may send no more, or the peer will receive no more.
    case brokenPipe
    /// There is no connection.
    case notConnected
    /// The address is taken, or no free port is left.
    case addressInUse
    /// The record is larger than the peer can hold, or than can be sent without waiting.
    case messageTooLong
    /// A limit of this stack is reached.
    case noBufferSpace
    /// The peer answered a connection request with something else.
    case protocolError
    /// The transport does not carry this socket type.
    case socketTypeNotSupported
    /// The operation would have to wait and may not, or has waited as long as it may.
    case wouldBlock
    /// The task that waited was cancelled.
    case cancelled
    /// The socket has been closed.
    case badDescriptor
    /// The socket is connected already.
    case alreadyConnected
    /// The socket is connecting already.
    case alreadyInProgress
    /// The connection is being made; the socket becomes writable when that has ended.
    case inProgress
    /// The call does not fit the socket's state, or a value is out of the option's range.
    case invalidArgument
    /// The port is reserved for privileged programs.
    case accessDenied
    /// The context ID is not one of this side.
    case addressNotAvailable
    /// No connection can be made to that context ID.
    case networkUnreachable
    /// The transport does not reach that context ID, or has gone.
    case noDevice
    /// The transport has no such operation or option.
    case notSupported
    /// A time is out of range.
    case outOfRange
    /// Any other errno, from the kernel's sockets.
    case system(errno: Int32)

    /// The error for an errno of the kernel.
    public init(errno: Int32) {
        self = Self.named.first { $0.errno == errno }?.error ?? .system(errno: errno)
    }

    /// The errno on Linux.
    public var errno: Int32 {
        if case .system(let errno) = self { return errno }
        return Self.named.first { $0.error == self }?.errno ?? 0
    }

    /// The name of the errno.
    public var name: String {
        if case .system(let errno) = self { return "errno \(errno)" }
        return Self.named.first { $0.error == self }?.name ?? ""
    }

    private static let named: [(error: SocketError, errno: Int32, name: String)] = [
        (.badDescriptor, 9, "EBADF"), (.wouldBlock, 11, "EAGAIN"), (.accessDenied, 13, "EACCES"),
        (.noDevice, 19, "ENODEV"), (.invalidArgument, 22, "EINVAL"), (.brokenPipe, 32, "EPIPE"),
        (.outOfRange, 34, "ERANGE"), (.protocolError, 71, "EPROTO"), (.messageTooLong, 90, "EMSGSIZE"),
        (.socketTypeNotSupported, 94, "ESOCKTNOSUPPORT"), (.notSupported, 95, "EOPNOTSUPP"),
        (.addressInUse, 98, "EADDRINUSE"), (.addressNotAvailable, 99, "EADDRNOTAVAIL"),
        (.networkUnreachable, 101, "ENETUNREACH"), (.connectionReset, 104, "ECONNRESET"),
        (.noBufferSpace, 105, "ENOBUFS"), (.alreadyConnected, 106, "EISCONN"), (.notConnected, 107, "ENOTCONN"),
        (.timedOut, 110, "ETIMEDOUT"), (.alreadyInProgress, 114, "EALREADY"), (.inProgress, 115, "EINPROGRESS"),
        (.cancelled, 125, "ECANCELED"),
    ]
}

extension SocketError: CustomStringConvertible {
    /// The name of the errno, for example `ECONNRESET`.
    public var description: String { name }
}
