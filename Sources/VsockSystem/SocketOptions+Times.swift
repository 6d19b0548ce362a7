// SPDX-License-Identifier: Apache-2.0
//
// How long calls of blocking sockets wait, and for how much: socket(7).

import CVsockLinux
import Glibc

extension SocketOptions {
    /// Sets SO_RCVTIMEO, how long a receive or accept blocks; 0 is for ever.
    public static func setReceiveTimeout(_ descriptor: Int32, nanoseconds: UInt64) throws(SystemCallError) {
        try set(descriptor, level: SOL_SOCKET, name: SO_RCVTIMEO, to: timeval(nanoseconds: nanoseconds))
    }

    /// Sets SO_SNDTIMEO, how long a send blocks; 0 is for ever.
    public static func setSendTimeout(_ descriptor: Int32, nanoseconds: UInt64) throws(SystemCallError) {
        try set(descriptor, level: SOL_SOCKET, name: SO_SNDTIMEO, to: timeval(nanoseconds: nanoseconds))
    }

    /// SO_RCVTIMEO in nanoseconds.
    public static func receiveTimeout(_ descriptor: Int32) throws(SystemCallError) -> UInt64 {
        try time(descriptor, level: SOL_SOCKET, name: SO_RCVTIMEO)
    }

    /// SO_SNDTIMEO in nanoseconds.
    public static func sendTimeout(_ descriptor: Int32) throws(SystemCallError) -> UInt64 {
        try time(descriptor, level: SOL_SOCKET, name: SO_SNDTIMEO)
    }

    /// SO_RCVLOWAT
    public static func receiveLowWaterMark(_ descriptor: Int32) throws(SystemCallError) -> Int {
        Int(try get(descriptor, level: SOL_SOCKET, name: SO_RCVLOWAT, as: Int32.self))
    }

    /// An option that is a `struct timeval`, in nanoseconds.
    static func time(_ descriptor: Int32, level: Int32, name: Int32) throws(SystemCallError) -> UInt64 {
        var time = timeval()
        try checked("getsockopt") {
            var size = socklen_t(MemoryLayout<timeval>.size)
            return getsockopt(descriptor, level, name, &time, &size)
        }
        return UInt64(clamping: time.tv_sec) &* 1_000_000_000 &+ UInt64(clamping: time.tv_usec) &* 1000
    }
}

extension timeval {
    /// A time for setsockopt(2), without what is below a microsecond; but a time that is there does not become 0, which
    /// is for ever.
    init(nanoseconds: UInt64) {
        self.init(
            tv_sec: .init(clamping: nanoseconds / 1_000_000_000), tv_usec: .init(nanoseconds % 1_000_000_000 / 1000))
        if nanoseconds > 0, tv_sec == 0, tv_usec == 0 { tv_usec = 1 }
    }
}
