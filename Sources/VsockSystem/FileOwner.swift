// SPDX-License-Identifier: Apache-2.0
//
// Who a file belongs to, as chown(1) writes it.

import Glibc

/// A user and a group, either of which may be left as it is.
public struct FileOwner: Hashable, Sendable {
    /// The user's number; nil leaves it.
    public let userID: UInt32?
    /// The group's number; nil leaves it.
    public let groupID: UInt32?

    /// From `USER`, `USER:GROUP` or `:GROUP`, names or numbers, as chown(1) has it; nil for any other text and for names
    /// that the system does not know. Reads the system's databases, so call it before rights are given up.
    public init?(_ text: String) {
        let parts = text.split(separator: ":", omittingEmptySubsequences: false).map(String.init)
        guard (1...2).contains(parts.count), parts.contains(where: { !$0.isEmpty }), parts.count == 1 || parts[1] != ""
        else { return nil }
        userID = parts[0].isEmpty ? nil : Self.user(parts[0])
        groupID = parts.count == 1 ? nil : Self.group(parts[1])
        guard parts[0].isEmpty || userID != nil, parts.count == 1 || groupID != nil else { return nil }
    }

    private static func user(_ text: String) -> UInt32? {
        if let number = number(text) { return number }
        return getpwnam(text)?.pointee.pw_uid
    }

    private static func group(_ text: String) -> UInt32? {
        if let number = number(text) { return number }
        return getgrnam(text)?.pointee.gr_gid
    }

    /// All ones stand for "leave it" in chown(2), so they are nobody's number.
    private static func number(_ text: String) -> UInt32? {
        guard let number = UInt32(text), number != .max else { return nil }
        return number
    }

    /// Gives a file to this owner; a link is not followed. Throws EPERM without the right to.
    func apply(to path: String) throws(SystemCallError) {
        let (user, group) = (userID ?? .max, groupID ?? .max)
        try checked("lchown", path: path) { lchown(path, user, group) }
    }
}
