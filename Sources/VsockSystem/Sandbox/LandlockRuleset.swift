// SPDX-License-Identifier: Apache-2.0
//
// landlock(7): from now on the thread, and those it starts, can do to files by name only what a rule grants. Connecting
// to a Unix socket by its path needs no right of Landlock; the file's mode decides, as always.

import CVsockLinux
import Glibc

enum LandlockRuleset {
    /// LANDLOCK_ACCESS_FS_*, as far as they are named here; all others are denied everywhere.
    private struct FileRights: OptionSet {
        let rawValue: UInt64
        static let removeFile = FileRights(rawValue: 1 << 5)
        static let makeSocket = FileRights(rawValue: 1 << 9)

        /// All rights that an ABI knows: 13 at first, then REFER, TRUNCATE, and IOCTL_DEV with ABI 5.
        static func all(version: Int32) -> FileRights {
            let count: UInt64 =
                switch version {
                case ...1: 13
                case 2: 14
                case 3, 4: 15
                default: 16
                }
            return FileRights(rawValue: (1 << count) - 1)
        }
    }

    /// LANDLOCK_ACCESS_NET_BIND_TCP and LANDLOCK_ACCESS_NET_CONNECT_TCP, ABI 4.
    private static let network: UInt64 = 0b11
    /// LANDLOCK_SCOPE_ABSTRACT_UNIX_SOCKET and LANDLOCK_SCOPE_SIGNAL, ABI 6.
    private static let scope: UInt64 = 0b11

    /// Restricts the calling thread. A directory that is not there is left out: creating a socket in it fails anyway.
    /// Throws ENOSYS or EOPNOTSUPP without Landlock, E2BIG after 16 times.
    static func restrictThread(socketDirectories: [String]) throws(SystemCallError) {
        let version = try checked("landlock_create_ruleset") { cvsock_landlock_version() }
        let ruleset = OwnedFileDescriptor(
            owning: try checked("landlock_create_ruleset") {
                cvsock_landlock_create(version, FileRights.all(version: version).rawValue, network, scope)
            })
        let rawValue = ruleset.rawValue
        let rights: FileRights = [.makeSocket, .removeFile]
        for directory in Set(socketDirectories) {
            let result = systemCall { Int(cvsock_open_directory_path(directory)) }
            if result == -Int(ENOENT) || result == -Int(ENOTDIR) { continue }
            guard result >= 0 else {
                throw SystemCallError(call: "open", errno: Errno(negated: result), path: directory)
            }
            let opened = OwnedFileDescriptor(owning: Int32(truncatingIfNeeded: result))
            let parent = opened.rawValue
            try checked("landlock_add_rule", path: directory) {
                cvsock_landlock_allow(rawValue, parent, rights.rawValue)
            }
        }
        try checked("landlock_restrict_self") { cvsock_landlock_restrict(rawValue) }
    }
}
