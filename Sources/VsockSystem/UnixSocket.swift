// SPDX-License-Identifier: Apache-2.0
//
// Unix sockets by path, unix(7): addresses and connections. Listeners are in UnixListener.swift.

import CVsockLinux
import Glibc

/// The kind of a connected Unix socket.
public enum UnixSocketType: Hashable, Sendable {
    /// SOCK_STREAM: bytes.
    case stream
    /// SOCK_SEQPACKET: records.
    case seqpacket

    /// SOCK_STREAM or SOCK_SEQPACKET.
    public var rawValue: Int32 {
        switch self {
        case .stream: Int32(SOCK_STREAM.rawValue)
        case .seqpacket: Int32(SOCK_SEQPACKET.rawValue)
        }
    }
}

/// A path that fits a Unix socket address.
public struct UnixAddress: Hashable, Sendable, CustomStringConvertible {
    /// `sun_path` has 108 bytes, one of which ends the string.
    public static let maximumPathByteCount = 107

    /// The path, 1 to 107 bytes of UTF-8 without a zero byte.
    public let path: String

    /// Checks the path. Throws ENAMETOOLONG, or EINVAL if it is empty or has a zero byte.
    public init(_ path: String) throws(SystemCallError) {
        let byteCount = path.utf8.count
        guard byteCount > 0, !path.utf8.contains(0) else {
            throw SystemCallError(
                call: "bind", errno: .invalidArgument, path: path, detail: "not a path for a Unix socket")
        }
        guard byteCount <= Self.maximumPathByteCount else {
            throw SystemCallError(
                call: "bind", errno: .nameTooLong, path: path,
                detail: "\(byteCount) bytes, a Unix socket path has at most \(Self.maximumPathByteCount): "
                    + "use a shorter directory")
        }
        self.path = path
    }

    public var description: String { path }

    func withSocketAddress<Result>(_ body: (UnsafePointer<sockaddr>, socklen_t) -> Result) -> Result {
        var address = sockaddr_un()
        address.sun_family = sa_family_t(AF_UNIX)
        // The rest of sun_path is zero, and init has checked that one zero is left.
        withUnsafeMutableBytes(of: &address.sun_path) { $0.copyBytes(from: path.utf8) }
        return withUnsafePointer(to: &address) { pointer in
            pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                body($0, socklen_t(MemoryLayout<sockaddr_un>.size))
            }
        }
    }
}

/// Unix sockets that connect.
public enum UnixSocket {
    /// Connects to the listener at `address`. A Unix connect ends at once or fails: there is no EINPROGRESS.
    ///
    /// Throws ENOENT, ECONNREFUSED if nobody listens, EPROTOTYPE if the listener is of the other type, EACCES; EAGAIN
    /// if the socket is non-blocking and the listener's backlog is full (a blocking one waits for it).
    public static func connect(
        to address: UnixAddress, type: UnixSocketType, nonBlocking: Bool
    ) throws(SystemCallError) -> OwnedFileDescriptor {
        if let kernel = Simulation.kernel {
            return try kernel.connect(to: address.path, type: type).descriptor("connect", path: address.path)
        }
        let socket = try make(type, nonBlocking: nonBlocking)
        let rawValue = socket.rawValue
        try checked("connect", path: address.path) {
            address.withSocketAddress { Glibc.connect(rawValue, $0, $1) }
        }
        return socket
    }

    /// Two sockets that are connected to each other, socketpair(2). Throws EMFILE.
    public static func makePair(_ type: UnixSocketType, nonBlocking: Bool) throws(SystemCallError) -> UnixSocketPair {
        if let kernel = Simulation.kernel { return try makePair(type, kernel) }
        var ends: (Int32, Int32) = (-1, -1)
        try checked("socketpair") {
            withUnsafeMutableBytes(of: &ends) { bytes in
                guard let base = bytes.assumingMemoryBound(to: Int32.self).baseAddress else { return -1 }
                return cvsock_socketpair(AF_UNIX, type.rawValue, nonBlocking ? 1 : 0, base)
            }
        }
        return UnixSocketPair(
            first: OwnedFileDescriptor(owning: ends.0), second: OwnedFileDescriptor(owning: ends.1))
    }

    private static func makePair(
        _ type: UnixSocketType, _ kernel: any SimulatedKernel
    ) throws(SystemCallError) -> UnixSocketPair {
        switch kernel.makePair(type) {
        case .success(let ends):
            return UnixSocketPair(
                first: OwnedFileDescriptor(owning: ends.0), second: OwnedFileDescriptor(owning: ends.1))
        case .failure(let errno): throw SystemCallError(call: "socketpair", errno: errno)
        }
    }

    static func make(_ type: UnixSocketType, nonBlocking: Bool) throws(SystemCallError) -> OwnedFileDescriptor {
        let rawValue = try checked("socket") { cvsock_socket(AF_UNIX, type.rawValue, nonBlocking ? 1 : 0) }
        return OwnedFileDescriptor(owning: rawValue)
    }
}

/// Two connected sockets. Each may be moved out on its own.
@frozen
public struct UnixSocketPair: ~Copyable, Sendable {
    /// One end.
    public var first: OwnedFileDescriptor
    /// The other end.
    public var second: OwnedFileDescriptor

    init(first: consuming OwnedFileDescriptor, second: consuming OwnedFileDescriptor) {
        self.first = first
        self.second = second
    }
}
