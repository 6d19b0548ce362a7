// SPDX-License-Identifier: Apache-2.0
//
// TCP sockets by host and port, tcp(7) and getaddrinfo(3): the control connections of tools.

import CVsockLinux
import Glibc

/// TCP connections.
public enum InternetSocket {
    /// Connects to the first address of `host` that answers. Blocks. Throws EINVAL for a name that has no address,
    /// ECONNREFUSED, ETIMEDOUT.
    public static func connect(host: String, port: UInt16) throws(SystemCallError) -> OwnedFileDescriptor {
        try open("connect", host, port) { (descriptor, address, byteCount) in
            Glibc.connect(descriptor, address, byteCount)
        }
    }

    /// Listens on the first address of `host` that can be bound, for one connection at a time. Port 0 is any that is
    /// free: see ``localPort(_:)``. Throws EADDRINUSE, EACCES.
    public static func listen(host: String, port: UInt16) throws(SystemCallError) -> OwnedFileDescriptor {
        try open("listen", host, port) { (descriptor, address, byteCount) in
            var yes: Int32 = 1
            _ = setsockopt(descriptor, SOL_SOCKET, SO_REUSEADDR, &yes, socklen_t(MemoryLayout<Int32>.size))
            guard bind(descriptor, address, byteCount) == 0 else { return -1 }
            return Glibc.listen(descriptor, 1)
        }
    }

    /// The next connection, non-blocking; nil if none is waiting on a listener that does not block.
    public static func accept(_ listener: Int32) throws(SystemCallError) -> OwnedFileDescriptor? {
        let result = systemCall { Int(cvsock_accept(listener)) }
        if result >= 0 { return OwnedFileDescriptor(owning: Int32(truncatingIfNeeded: result)) }
        if result == -Int(EAGAIN) || result == -Int(ECONNABORTED) { return nil }
        throw SystemCallError(call: "accept4", errno: Errno(negated: result))
    }

    /// The port that a socket is bound to.
    public static func localPort(_ descriptor: Int32) throws(SystemCallError) -> UInt16 {
        var address = sockaddr_storage()
        try checked("getsockname") {
            var byteCount = socklen_t(MemoryLayout<sockaddr_storage>.size)
            return withUnsafeMutablePointer(to: &address) { pointer in
                pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                    getsockname(descriptor, $0, &byteCount)
                }
            }
        }
        // sin_port and sin6_port lie at the same place, in network order.
        return withUnsafeBytes(of: address) { UInt16(bigEndian: $0.loadUnaligned(fromByteOffset: 2, as: UInt16.self)) }
    }

    private static func open(
        _ call: StaticString, _ host: String, _ port: UInt16,
        _ attempt: (Int32, UnsafePointer<sockaddr>, socklen_t) -> Int32
    ) throws(SystemCallError) -> OwnedFileDescriptor {
        let name = "\(host):\(port)"
        var hints = addrinfo()
        hints.ai_socktype = Int32(SOCK_STREAM.rawValue)
        var list: UnsafeMutablePointer<addrinfo>?
        let code = getaddrinfo(host, "\(port)", &hints, &list)
        guard code == 0 else {
            throw SystemCallError(
                call: call, errno: .invalidArgument, path: name,
                detail: gai_strerror(code).map { String(cString: $0) } ?? "")
        }
        defer { freeaddrinfo(list) }
        var failure = SystemCallError(call: call, errno: .invalidArgument, path: name, detail: "no address")
        var next = list
        while let entry = next?.pointee {
            next = entry.ai_next
            guard let address = entry.ai_addr else { continue }
            let socket = OwnedFileDescriptor(
                owning: try checked("socket", path: name) { cvsock_socket(entry.ai_family, entry.ai_socktype, 0) })
            let rawValue = socket.rawValue
            let result = systemCall { Int(attempt(rawValue, address, entry.ai_addrlen)) }
            if result >= 0 { return socket }
            failure = SystemCallError(call: call, errno: Errno(negated: result), path: name)
        }
        throw failure
    }
}
