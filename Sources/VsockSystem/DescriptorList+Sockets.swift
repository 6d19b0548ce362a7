// SPDX-License-Identifier: Apache-2.0
//
// Descriptors of a peer that are kept. A connection ends when the last descriptor of its other end is closed, so what
// is kept must not hold that end: not be it, and not be a socket in whose queue it waits (SCM_RIGHTS, unix(7)).
// Eventfds, pipes and regular files hold no sockets.

import Glibc

extension DescriptorList {
    /// Sees to it that none of the descriptors, as long as it is kept, holds the other end of `connection`, which is a
    /// connected stream socket of family AF_UNIX.
    ///
    /// A socket among the descriptors is shut down for receiving: it can be sent to, and its other end notices only
    /// when it sends. False if something waits in it, if it is no connected stream socket of family AF_UNIX, or if it is
    /// that other end: close the list and `connection` then.
    public borrowing func cannotHoldOtherEnd(of connection: Int32) -> Bool {
        for index in 0..<count {
            guard let descriptor = rawValue(at: index), Self.isSocket(descriptor) else { continue }
            guard Self.receivesNothing(descriptor) else { return false }
            // What that end does not receive, this one cannot send.
            if case .failed = DescriptorIO.sendNothing(connection) { return false }
        }
        return true
    }

    private static func isSocket(_ descriptor: Int32) -> Bool {
        if let kernel = Simulation.kernel(of: descriptor) { return kernel.socketType(descriptor) != nil }
        var status = stat()
        return fstat(descriptor, &status) == 0 && status.st_mode & S_IFMT == S_IFSOCK
    }

    private static func isUnixStream(_ descriptor: Int32) throws(SystemCallError) -> Bool {
        if let kernel = Simulation.kernel(of: descriptor) { return kernel.socketType(descriptor) == .stream }
        let family = try SocketOptions.get(descriptor, level: SOL_SOCKET, name: SO_DOMAIN, as: Int32.self)
        let type = try SocketOptions.socketType(descriptor)
        return family == AF_UNIX && type == UnixSocketType.stream.rawValue
    }

    private static func receivesNothing(_ descriptor: Int32) -> Bool {
        do throws(SystemCallError) {
            // An empty record is not counted, and may carry descriptors.
            guard try isUnixStream(descriptor) else { return false }
            try SocketOptions.shutdown(descriptor, .receive)
            // A listener has no such number.
            return try SocketOptions.unreadByteCount(descriptor) == 0
        } catch {
            return false
        }
    }
}
