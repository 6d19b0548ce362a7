// SPDX-License-Identifier: Apache-2.0
// Files of the host as booting a guest needs them: whole, by path, with failures that name the file.

import VsockSystem

/// Files of the host, by path.
package enum HostFile {
    /// Reads `limit` bytes at most.
    package static func read(_ path: String, limit: Int = .max) throws(GuestError) -> [UInt8] {
        try GuestError.naming { () throws(SystemCallError) in try FileSystem.read(path, limit: limit) }
    }

    /// The lines of a text file.
    package static func lines(_ path: String) throws(GuestError) -> [Substring] {
        String(decoding: try read(path), as: UTF8.self).split(separator: "\n")
    }

    /// Creates or replaces a file.
    package static func write(_ bytes: [UInt8], to path: String, mode: UInt32 = 0o600) throws(GuestError) {
        try GuestError.naming { () throws(SystemCallError) in try FileSystem.write(bytes, to: path, mode: mode) }
    }

    /// The path from the root, as seen from the current directory.
    package static func absolute(_ path: String) -> String {
        path.hasPrefix("/") ? path : CurrentProcess.currentDirectory + "/" + path
    }
}
