// SPDX-License-Identifier: Apache-2.0
//
// socket(7) options and shutdown(2), for sockets of every family.

import CVsockLinux
import Glibc

/// Options of sockets that the caller owns.
public enum SocketOptions {
    /// Which direction to shut down.
    public enum Direction: Sendable {
        /// SHUT_RD
        case receive
        /// SHUT_WR
        case send
        /// SHUT_RDWR
        case both
    }

    /// shutdown(2). Throws ENOTCONN.
    public static func shutdown(_ descriptor: Int32, _ direction: Direction) throws(SystemCallError) {
        if let kernel = Simulation.kernel(of: descriptor) {
            return try checkSimulated("shutdown", kernel.shutdown(descriptor, direction))
        }
        let how =
            switch direction {
            case .receive: SHUT_RD
            case .send: SHUT_WR
            case .both: SHUT_RDWR
            }
        try checked("shutdown") { Glibc.shutdown(descriptor, Int32(how)) }
    }

    /// Sets SO_SNDBUF. The kernel doubles the number, for its own overhead, and caps it at net.core.wmem_max. For
    /// SOCK_SEQPACKET it also bounds the size of a record.
    public static func setSendBuffer(_ descriptor: Int32, byteCount: Int) throws(SystemCallError) {
        if let kernel = Simulation.kernel(of: descriptor) {
            return kernel.setSendBuffer(descriptor, byteCount: byteCount)
        }
        try set(descriptor, level: SOL_SOCKET, name: SO_SNDBUF, to: Int32(clamping: byteCount))
    }

    /// Sets SO_RCVBUF; as ``setSendBuffer(_:byteCount:)``, with net.core.rmem_max. Unix sockets do not use it.
    public static func setReceiveBuffer(_ descriptor: Int32, byteCount: Int) throws(SystemCallError) {
        try set(descriptor, level: SOL_SOCKET, name: SO_RCVBUF, to: Int32(clamping: byteCount))
    }

    /// SO_SNDBUF as the kernel counts it: twice what was set.
    public static func sendBuffer(_ descriptor: Int32) throws(SystemCallError) -> Int {
        if let kernel = Simulation.kernel(of: descriptor) { return kernel.sendBuffer(descriptor) }
        return Int(try get(descriptor, level: SOL_SOCKET, name: SO_SNDBUF, as: Int32.self))
    }

    /// SO_RCVBUF as the kernel counts it: twice what was set.
    public static func receiveBuffer(_ descriptor: Int32) throws(SystemCallError) -> Int {
        Int(try get(descriptor, level: SOL_SOCKET, name: SO_RCVBUF, as: Int32.self))
    }

    /// SO_ERROR: takes the error that waits on the socket, nil if there is none. Ends a non-blocking connect.
    public static func takeError(_ descriptor: Int32) throws(SystemCallError) -> Errno? {
        let code = try get(descriptor, level: SOL_SOCKET, name: SO_ERROR, as: Int32.self)
        return code == 0 ? nil : Errno(rawValue: code)
    }

    /// SO_RCVLOWAT: bytes of a stream that make it readable. Unix sockets do not look at it in poll(2).
    public static func setReceiveLowWaterMark(_ descriptor: Int32, byteCount: Int) throws(SystemCallError) {
        try set(descriptor, level: SOL_SOCKET, name: SO_RCVLOWAT, to: Int32(clamping: byteCount))
    }

    /// SO_PASSCRED of a Unix socket: everything that is received has credentials with it, an empty record too, but not
    /// the end. Who gives recvmsg(2) no room for them gets ``MessageFlags/controlTruncated`` and so tells the two apart.
    public static func setPassCredentials(_ descriptor: Int32) throws(SystemCallError) {
        try set(descriptor, level: SOL_SOCKET, name: SO_PASSCRED, to: Int32(1))
    }

    /// SIOCOUTQ: bytes that were sent and have not reached the peer. Throws ENOTTY for AF_VSOCK before Linux 6.12.
    public static func unsentByteCount(_ descriptor: Int32) throws(SystemCallError) -> Int {
        var count: Int32 = 0
        try checked("ioctl") { cvsock_get_unsent(descriptor, &count) }
        return Int(count)
    }

    /// FIONREAD: bytes that wait to be received; those of all records on a seqpacket socket. Throws ENOTTY for AF_VSOCK
    /// before Linux 6.17.
    public static func unreadByteCount(_ descriptor: Int32) throws(SystemCallError) -> Int {
        if let kernel = Simulation.kernel(of: descriptor) { return kernel.unreadByteCount(descriptor) }
        var count: Int32 = 0
        try checked("ioctl") { cvsock_get_unread(descriptor, &count) }
        return Int(count)
    }

    /// SO_TYPE: SOCK_STREAM, SOCK_SEQPACKET and so on.
    public static func socketType(_ descriptor: Int32) throws(SystemCallError) -> Int32 {
        try get(descriptor, level: SOL_SOCKET, name: SO_TYPE, as: Int32.self)
    }

    /// setsockopt(2) with a value of a C type.
    public static func set<Value: BitwiseCopyable>(
        _ descriptor: Int32, level: Int32, name: Int32, to value: Value
    ) throws(SystemCallError) {
        try checked("setsockopt") {
            withUnsafeBytes(of: value) { bytes in
                setsockopt(descriptor, level, name, bytes.baseAddress, socklen_t(bytes.count))
            }
        }
    }

    /// getsockopt(2) with a value of a C integer type. What the kernel does not fill stays zero.
    public static func get<Value: FixedWidthInteger & BitwiseCopyable>(
        _ descriptor: Int32, level: Int32, name: Int32, as type: Value.Type
    ) throws(SystemCallError) -> Value {
        var value: Value = 0
        try checked("getsockopt") {
            var size = socklen_t(MemoryLayout<Value>.size)
            return getsockopt(descriptor, level, name, &value, &size)
        }
        return value
    }
}
