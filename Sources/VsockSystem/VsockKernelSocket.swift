// SPDX-License-Identifier: Apache-2.0
//
// AF_VSOCK sockets of the running kernel, vsock(7). Nothing here knows the protocol; reads, writes, options and
// readiness are those of every other socket.

import CVsockLinux
import Glibc

/// The address of an AF_VSOCK socket: `svm_cid` and `svm_port`, in the byte order of this machine.
public struct VsockKernelAddress: Hashable, Sendable, CustomStringConvertible {
    /// The context identifier. 0xFFFFFFFF is VMADDR_CID_ANY.
    public var cid: UInt32
    /// The port. 0xFFFFFFFF is VMADDR_PORT_ANY: the kernel chooses.
    public var port: UInt32

    /// An address.
    public init(cid: UInt32, port: UInt32) {
        self.cid = cid
        self.port = port
    }

    public var description: String { "vsock:\(cid):\(port)" }

    fileprivate func withSocketAddress(_ body: (UnsafePointer<sockaddr>, socklen_t) -> Int32) -> Int32 {
        var address = cvsock_sockaddr_vm(cid, port)
        return withUnsafePointer(to: &address) { pointer in
            pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) { body($0, Self.byteCount) }
        }
    }

    fileprivate static let byteCount = socklen_t(MemoryLayout<sockaddr_vm>.size)
}

/// SO_VM_SOCKETS_BUFFER_*: sizes of the receive buffer, which is the credit that the peer gets.
public enum VsockKernelBufferOption: Sendable {
    /// SO_VM_SOCKETS_BUFFER_SIZE, kept between the other two.
    case size
    /// SO_VM_SOCKETS_BUFFER_MIN_SIZE
    case minimumSize
    /// SO_VM_SOCKETS_BUFFER_MAX_SIZE
    case maximumSize

    fileprivate var rawValue: Int32 {
        switch self {
        case .size: Int32(CVSOCK_SO_BUFFER_SIZE)
        case .minimumSize: Int32(CVSOCK_SO_BUFFER_MIN_SIZE)
        case .maximumSize: Int32(CVSOCK_SO_BUFFER_MAX_SIZE)
        }
    }
}

/// System calls on AF_VSOCK sockets.
public enum VsockKernelSocket {
    /// A socket of `type` (SOCK_STREAM or SOCK_SEQPACKET). Throws EAFNOSUPPORT if the kernel has no vsock,
    /// ESOCKTNOSUPPORT if it does not know the type.
    public static func make(type: Int32, nonBlocking: Bool) throws(SystemCallError) -> OwnedFileDescriptor {
        let rawValue = try checked("socket", path: "AF_VSOCK") { cvsock_socket(AF_VSOCK, type, nonBlocking ? 1 : 0) }
        return OwnedFileDescriptor(owning: rawValue)
    }

    /// bind(2). Throws EADDRINUSE, EADDRNOTAVAIL if the CID is not ours, EACCES for ports below 1024 without privilege.
    public static func bind(_ descriptor: Int32, to address: VsockKernelAddress) throws(SystemCallError) {
        try checked("bind", path: address.description) {
            address.withSocketAddress { Glibc.bind(descriptor, $0, $1) }
        }
    }

    /// listen(2)
    public static func listen(_ descriptor: Int32, backlog: Int) throws(SystemCallError) {
        let length = Int32(clamping: backlog)
        try checked("listen", path: "AF_VSOCK") { Glibc.listen(descriptor, length) }
    }

    /// accept4(2): a non-blocking connection, nil if none is waiting. Throws as ``UnixListener/accept()``.
    public static func accept(_ descriptor: Int32) throws(SystemCallError) -> OwnedFileDescriptor? {
        let result = systemCall { Int(cvsock_accept(descriptor)) }
        if result >= 0 { return OwnedFileDescriptor(owning: Int32(truncatingIfNeeded: result)) }
        if result == -Int(EAGAIN) || result == -Int(ECONNABORTED) { return nil }
        throw SystemCallError(call: "accept4", errno: Errno(negated: result), path: "AF_VSOCK")
    }

    /// connect(2). True: connected. False: the socket is non-blocking and the connect goes on; it has ended when the
    /// socket is writable, and ``SocketOptions/takeError(_:)`` says how. Throws ECONNRESET if nobody listens, ENODEV
    /// if no transport reaches the CID, ETIMEDOUT, ESOCKTNOSUPPORT if the transport does not carry the type.
    public static func connect(
        _ descriptor: Int32, to address: VsockKernelAddress
    ) throws(SystemCallError) -> Bool {
        let result = systemCall { Int(address.withSocketAddress { Glibc.connect(descriptor, $0, $1) }) }
        if result >= 0 { return true }
        if result == -Int(EINPROGRESS) { return false }
        throw SystemCallError(call: "connect", errno: Errno(negated: result), path: address.description)
    }

    /// getsockname(2)
    public static func localAddress(_ descriptor: Int32) throws(SystemCallError) -> VsockKernelAddress {
        try address("getsockname") { getsockname(descriptor, $0, $1) }
    }

    /// getpeername(2). Throws ENOTCONN.
    public static func peerAddress(_ descriptor: Int32) throws(SystemCallError) -> VsockKernelAddress {
        try address("getpeername") { getpeername(descriptor, $0, $1) }
    }

    /// Sets a buffer size in bytes.
    public static func setBuffer(
        _ descriptor: Int32, _ option: VsockKernelBufferOption, byteCount: UInt64
    ) throws(SystemCallError) {
        try SocketOptions.set(descriptor, level: AF_VSOCK, name: option.rawValue, to: byteCount)
    }

    /// A buffer size in bytes.
    public static func buffer(
        _ descriptor: Int32, _ option: VsockKernelBufferOption
    ) throws(SystemCallError) -> UInt64 {
        try SocketOptions.get(descriptor, level: AF_VSOCK, name: option.rawValue, as: UInt64.self)
    }

    /// SO_VM_SOCKETS_CONNECT_TIMEOUT: how long a blocking connect waits; 2 s unless set.
    public static func setConnectTimeout(_ descriptor: Int32, nanoseconds: UInt64) throws(SystemCallError) {
        let name = Int32(CVSOCK_SO_CONNECT_TIMEOUT)
        try SocketOptions.set(descriptor, level: AF_VSOCK, name: name, to: timeval(nanoseconds: nanoseconds))
    }

    /// SO_VM_SOCKETS_CONNECT_TIMEOUT in nanoseconds.
    public static func connectTimeout(_ descriptor: Int32) throws(SystemCallError) -> UInt64 {
        try SocketOptions.time(descriptor, level: AF_VSOCK, name: Int32(CVSOCK_SO_CONNECT_TIMEOUT))
    }

    /// The CID of this machine, by /dev/vsock: 2 on a host, 0xFFFFFFFF (VMADDR_CID_ANY) if no transport is loaded.
    /// Throws ENOENT if the kernel has no vsock, EACCES.
    public static func localCID() throws(SystemCallError) -> UInt32 {
        let path = "/dev/vsock"
        let device = OwnedFileDescriptor(owning: try checked("open", path: path) { open(path, O_RDONLY | O_CLOEXEC) })
        let rawValue = device.rawValue
        var cid: UInt32 = 0
        try checked("ioctl", path: path) { cvsock_get_local_cid(rawValue, &cid) }
        return cid
    }

    private static func address(
        _ call: StaticString, _ body: (UnsafeMutablePointer<sockaddr>, UnsafeMutablePointer<socklen_t>) -> Int32
    ) throws(SystemCallError) -> VsockKernelAddress {
        var address = cvsock_sockaddr_vm(0, 0)
        try checked(call, path: "AF_VSOCK") {
            var byteCount = VsockKernelAddress.byteCount
            return withUnsafeMutablePointer(to: &address) { pointer in
                pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) { body($0, &byteCount) }
            }
        }
        return VsockKernelAddress(cid: address.svm_cid, port: address.svm_port)
    }
}
