// SPDX-License-Identifier: Apache-2.0
//
// Error numbers of Linux, errno(3), as a typed Swift error. Only the values that some caller compares with have names.

import Glibc

/// An error number as the kernel reports it. Two words of code and no allocation: usable on per-packet paths.
@frozen
public struct Errno: Error, RawRepresentable, Hashable, Sendable {
    /// The value of `errno`.
    public var rawValue: Int32

    /// Wraps a value of `errno`.
    @inlinable
    public init(rawValue: Int32) {
        self.rawValue = rawValue
    }

    /// EACCES
    @inlinable public static var permissionDenied: Errno { Errno(rawValue: EACCES) }
    /// EADDRINUSE
    @inlinable public static var addressInUse: Errno { Errno(rawValue: EADDRINUSE) }
    /// EADDRNOTAVAIL
    @inlinable public static var addressNotAvailable: Errno { Errno(rawValue: EADDRNOTAVAIL) }
    /// EAFNOSUPPORT
    @inlinable public static var addressFamilyNotSupported: Errno { Errno(rawValue: EAFNOSUPPORT) }
    /// EAGAIN, the same value as EWOULDBLOCK on Linux
    @inlinable public static var wouldBlock: Errno { Errno(rawValue: EAGAIN) }
    /// EFAULT
    @inlinable public static var badAddress: Errno { Errno(rawValue: EFAULT) }
    /// EBADF
    @inlinable public static var badFileDescriptor: Errno { Errno(rawValue: EBADF) }
    /// ECHILD
    @inlinable public static var noChildProcess: Errno { Errno(rawValue: ECHILD) }
    /// ECONNREFUSED
    @inlinable public static var connectionRefused: Errno { Errno(rawValue: ECONNREFUSED) }
    /// ECONNRESET
    @inlinable public static var connectionReset: Errno { Errno(rawValue: ECONNRESET) }
    /// EEXIST
    @inlinable public static var fileExists: Errno { Errno(rawValue: EEXIST) }
    /// EINPROGRESS
    @inlinable public static var inProgress: Errno { Errno(rawValue: EINPROGRESS) }
    /// EINTR
    @inlinable public static var interrupted: Errno { Errno(rawValue: EINTR) }
    /// EINVAL
    @inlinable public static var invalidArgument: Errno { Errno(rawValue: EINVAL) }
    /// EIO
    @inlinable public static var inputOutput: Errno { Errno(rawValue: EIO) }
    /// EISCONN
    @inlinable public static var isConnected: Errno { Errno(rawValue: EISCONN) }
    /// EMFILE: this process has no descriptor left
    @inlinable public static var tooManyOpenFiles: Errno { Errno(rawValue: EMFILE) }
    /// EMSGSIZE
    @inlinable public static var messageTooLong: Errno { Errno(rawValue: EMSGSIZE) }
    /// ENAMETOOLONG
    @inlinable public static var nameTooLong: Errno { Errno(rawValue: ENAMETOOLONG) }
    /// ENFILE: the system has no descriptor left
    @inlinable public static var tooManyOpenFilesInSystem: Errno { Errno(rawValue: ENFILE) }
    /// ENOBUFS
    @inlinable public static var noBufferSpace: Errno { Errno(rawValue: ENOBUFS) }
    /// ENODEV
    @inlinable public static var noSuchDevice: Errno { Errno(rawValue: ENODEV) }
    /// ENOENT
    @inlinable public static var noSuchFile: Errno { Errno(rawValue: ENOENT) }
    /// ENOMEM
    @inlinable public static var outOfMemory: Errno { Errno(rawValue: ENOMEM) }
    /// ENOSYS
    @inlinable public static var notImplemented: Errno { Errno(rawValue: ENOSYS) }
    /// ENOTCONN
    @inlinable public static var notConnected: Errno { Errno(rawValue: ENOTCONN) }
    /// EOPNOTSUPP
    @inlinable public static var notSupported: Errno { Errno(rawValue: EOPNOTSUPP) }
    /// EPERM
    @inlinable public static var notPermitted: Errno { Errno(rawValue: EPERM) }
    /// EPIPE
    @inlinable public static var brokenPipe: Errno { Errno(rawValue: EPIPE) }
    /// EPROTOTYPE: a Unix socket of the other type listens at the path
    @inlinable public static var wrongSocketType: Errno { Errno(rawValue: EPROTOTYPE) }
    /// ESOCKTNOSUPPORT: for AF_VSOCK, no loaded transport carries that socket type
    @inlinable public static var socketTypeNotSupported: Errno { Errno(rawValue: ESOCKTNOSUPPORT) }
    /// ESRCH
    @inlinable public static var noSuchProcess: Errno { Errno(rawValue: ESRCH) }
    /// ETIMEDOUT
    @inlinable public static var timedOut: Errno { Errno(rawValue: ETIMEDOUT) }
}

extension Errno: CustomStringConvertible {
    /// The C library's text, for example `Permission denied`.
    public var description: String {
        guard let text = strerror(rawValue) else { return "error \(rawValue)" }
        return String(cString: text)
    }
}
