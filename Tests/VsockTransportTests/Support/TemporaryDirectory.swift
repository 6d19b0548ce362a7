// SPDX-License-Identifier: Apache-2.0
//
// What tests ask of a directory for their sockets.

import Glibc
import Testing
import VsockSystem

extension TemporaryDirectory {
    func file(_ name: String) -> String { "\(path)/\(name)" }

    func exists(_ name: String) -> Bool { FileSystem.exists(file(name)) }

    /// A file's permissions.
    func mode(_ name: String) -> UInt32? {
        var status = stat()
        return lstat(file(name), &status) == 0 ? status.st_mode & 0o7777 : nil
    }

    /// The names in it, sorted.
    var names: [String] { (try? FileSystem.names(in: path)) ?? [] }

    /// Puts a regular file there.
    func createFile(_ name: String) { try? FileSystem.write([], to: file(name)) }
}

/// A socket file without a listener, as a process that died leaves it.
func leaveStaleSocket(at path: String) throws {
    let descriptor = socket(AF_UNIX, Int32(SOCK_STREAM.rawValue), 0)
    defer { close(descriptor) }
    var address = sockaddr_un()
    address.sun_family = sa_family_t(AF_UNIX)
    withUnsafeMutableBytes(of: &address.sun_path) { $0.copyBytes(from: path.utf8) }
    let result = withUnsafePointer(to: &address) { pointer in
        pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) {
            bind(descriptor, $0, socklen_t(MemoryLayout<sockaddr_un>.size))
        }
    }
    try #require(result == 0)
}
