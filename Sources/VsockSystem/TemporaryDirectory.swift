// SPDX-License-Identifier: Apache-2.0
//
// A private directory, mkdtemp(3): 0700, and removed with everything in it. Its path has no character that a kernel
// command line, a QEMU option or a shell would take apart, and leaves room for the name of a Unix socket.

import Glibc
import Synchronization

/// A directory that is removed at the latest with the last reference.
public final class TemporaryDirectory: Sendable {
    /// Where it is.
    public let path: String

    private let isRemoved = Atomic<Bool>(false)

    /// Creates it under TMPDIR, or under /tmp if TMPDIR is not set or not such a path. Throws EACCES, ENOENT, ENOSPC.
    public init(prefix: String = "vsock") throws(SystemCallError) {
        let wanted = CurrentProcess.environment("TMPDIR") ?? "/tmp"
        let isPlain = wanted.hasPrefix("/") && wanted.utf8.count < 60 && wanted.utf8.allSatisfy(Self.isPlain)
        let template = "\(isPlain ? wanted : "/tmp")/\(prefix).XXXXXX"
        var bytes = Array(template.utf8CString)
        let isMade = bytes.withUnsafeMutableBufferPointer { buffer in
            buffer.baseAddress.map { mkdtemp($0) != nil } ?? false
        }
        guard isMade else { throw SystemCallError(call: "mkdtemp", errno: Errno(rawValue: errno), path: template) }
        path = String(decoding: bytes.dropLast().map { UInt8(bitPattern: $0) }, as: UTF8.self)
    }

    deinit { remove() }

    /// Removes it and its content; a second call does nothing.
    public func remove() {
        if !isRemoved.exchange(true, ordering: .relaxed) { FileSystem.removeTree(path) }
    }

    private static func isPlain(_ byte: UInt8) -> Bool {
        switch byte {
        case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"): true
        case UInt8(ascii: "0")...UInt8(ascii: "9"): true
        default: "/._-".utf8.contains(byte)
        }
    }
}
