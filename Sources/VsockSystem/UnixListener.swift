// SPDX-License-Identifier: Apache-2.0
//
// Listening Unix sockets and the file that each leaves in the file system: who may connect, what happens to a file that
// is already there, and who removes it.
//
// A file that is already at the path:
//   not a socket                            is never touched                    EEXIST
//   a socket, and someone answers           is never touched                    EADDRINUSE
//   a socket, and nobody listens            was left by a process that died     removed and bound again
// "Answers" is everything that connect(2) says of a live listener: success, a full backlog, or the wrong socket type.
//
// Known limit: between bind and listen, and between the probe and unlink, another process that starts at the same
// moment on the same path can take a fresh socket for a stale one. The window is a few system calls wide; the second
// starter wins the path. Give every daemon a path of its own.

import CVsockLinux
import Glibc

/// A listening, non-blocking Unix socket. Its file is removed with the last reference, if it is still ours.
public final class UnixListener: Sendable {
    /// SOMAXCONN of Linux 5.4 and later. The kernel cuts it to net.core.somaxconn.
    public static let defaultBacklog = 4096

    private let descriptor: OwnedFileDescriptor
    private let device: UInt64
    private let inode: UInt64

    /// Where it listens.
    public let address: UnixAddress
    /// What it accepts.
    public let type: UnixSocketType

    /// Readable while a connection is waiting.
    public var rawDescriptor: Int32 { descriptor.rawValue }

    /// Binds and listens, by the rules at the top of this file. `mode` is exact from the moment the file appears if it
    /// grants no more than the umask does; otherwise the rest is granted right after. Connecting needs the write bit.
    /// `owner` gets the file before anybody can connect.
    ///
    /// Throws EEXIST, EADDRINUSE, EACCES, EPERM (an owner that we may not give it to), ENOENT (no such directory),
    /// EROFS, EMFILE.
    public init(
        _ address: UnixAddress, type: UnixSocketType, mode: UInt32 = 0o600, owner: FileOwner? = nil,
        backlog: Int = defaultBacklog
    ) throws(SystemCallError) {
        self.address = address
        self.type = type
        if let kernel = Simulation.kernel {
            descriptor = try kernel.listen(at: address.path, type: type, backlog: backlog)
                .descriptor("bind", path: address.path)
            (device, inode) = (0, 0)
            return
        }
        try StaleSocket.remove(at: address)
        let socket = try UnixSocket.bind(to: address, type: type, mode: mode, nonBlocking: true)
        let rawValue = socket.rawValue
        let status = try FileIdentity.status(of: address.path)
        device = UInt64(status.st_dev)
        inode = UInt64(status.st_ino)
        descriptor = socket
        // From here on deinit removes the file if a call fails.
        if status.st_mode & 0o7777 != mode {
            try checked("chmod", path: address.path) { chmod(address.path, mode) }
        }
        try owner?.apply(to: address.path)
        let length = Int32(clamping: backlog)
        try checked("listen", path: address.path) { listen(rawValue, length) }
    }

    deinit {
        // Not if someone else has replaced it: that one is theirs. A simulated one goes with its descriptor.
        guard descriptor.rawValue < Simulation.firstDescriptor, let status = try? FileIdentity.status(of: address.path),
            UInt64(status.st_dev) == device, UInt64(status.st_ino) == inode
        else { return }
        unlink(address.path)
    }

    /// The next connection, non-blocking; nil if none is waiting. Throws EMFILE, ENFILE, ENOMEM: the connection then
    /// stays in the backlog and the listener stays readable, so stop watching it until a descriptor is free.
    public func accept() throws(SystemCallError) -> OwnedFileDescriptor? {
        let listener = descriptor.rawValue
        if let kernel = Simulation.kernel(of: listener) {
            let accepted = kernel.accept(listener)
            if case .failure(.wouldBlock) = accepted { return nil }
            return try accepted.descriptor("accept4", path: address.path)
        }
        let result = systemCall { Int(cvsock_accept(listener)) }
        if result >= 0 { return OwnedFileDescriptor(owning: Int32(truncatingIfNeeded: result)) }
        if result == -Int(EAGAIN) || result == -Int(ECONNABORTED) { return nil }
        throw SystemCallError(call: "accept4", errno: Errno(negated: result), path: address.path)
    }
}

extension UnixSocket {
    /// A blocking listener for a program that inherits it. Nothing may be at the address, and the file is the caller's
    /// to remove; nobody but its owner can connect. Throws EADDRINUSE, EACCES, ENOENT (no such directory), EMFILE.
    public static func listen(
        at address: UnixAddress, type: UnixSocketType, backlog: Int
    ) throws(SystemCallError) -> OwnedFileDescriptor {
        let socket = try bind(to: address, type: type, mode: 0o600, nonBlocking: false)
        let rawValue = socket.rawValue
        let length = Int32(clamping: backlog)
        try checked("listen", path: address.path) { Glibc.listen(rawValue, length) }
        return socket
    }

    fileprivate static func bind(
        to address: UnixAddress, type: UnixSocketType, mode: UInt32, nonBlocking: Bool
    ) throws(SystemCallError) -> OwnedFileDescriptor {
        let socket = try make(type, nonBlocking: nonBlocking)
        let rawValue = socket.rawValue
        // The kernel gives the file the mode of the socket's own inode, less the umask: there is no moment at which
        // others can connect.
        try checked("fchmod", path: address.path) { fchmod(rawValue, mode) }
        try checked("bind", path: address.path) {
            address.withSocketAddress { Glibc.bind(rawValue, $0, $1) }
        }
        return socket
    }
}

/// What is at a path, without following a link.
enum FileIdentity {
    static func status(of path: String) throws(SystemCallError) -> stat {
        var status = stat()
        try checked("lstat", path: path) { lstat(path, &status) }
        return status
    }
}

/// The rule for a file that is already where a listener wants to be.
enum StaleSocket {
    static func remove(at address: UnixAddress) throws(SystemCallError) {
        guard let found = try status(of: address) else { return }
        guard found.st_mode & S_IFMT == S_IFSOCK else {
            throw SystemCallError(
                call: "bind", errno: .fileExists, path: address.path, detail: "not a socket, so it is not replaced")
        }
        guard try isStale(address) else { return }
        // Someone else may have replaced it since.
        guard let now = try status(of: address), now.st_dev == found.st_dev, now.st_ino == found.st_ino else { return }
        let result = systemCall { Int(unlink(address.path)) }
        if result < 0, result != -Int(ENOENT) {
            throw SystemCallError(call: "unlink", errno: Errno(negated: result), path: address.path)
        }
    }

    /// Throws EADDRINUSE if someone listens.
    private static func isStale(_ address: UnixAddress) throws(SystemCallError) -> Bool {
        do {
            // The type does not matter: a listener of the other type answers with EPROTOTYPE.
            _ = try UnixSocket.connect(to: address, type: .stream, nonBlocking: true)
        } catch {
            switch error.errno {
            case .connectionRefused: return true
            case .noSuchFile: return false
            case .wouldBlock, .wrongSocketType: break
            default:
                throw SystemCallError(
                    call: "connect", errno: error.errno, path: address.path,
                    detail: "a socket is there, and whether it is in use is not known")
            }
        }
        throw SystemCallError(
            call: "bind", errno: .addressInUse, path: address.path, detail: "another process is listening there")
    }

    private static func status(of address: UnixAddress) throws(SystemCallError) -> stat? {
        do {
            return try FileIdentity.status(of: address.path)
        } catch {
            if error.errno == .noSuchFile { return nil }
            throw error
        }
    }
}
