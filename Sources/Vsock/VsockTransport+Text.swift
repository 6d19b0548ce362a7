// SPDX-License-Identifier: Apache-2.0
//
// The one grammar that names transports: a name, `:` and a path, and `,key=value` parts.

import VsockTransport
import VsockWire

extension VsockTransport {
    /// The grammar in a line, for the help of commands.
    public static let grammar = "kernel|loopback|device:SOCKET[,guest-cid=N][,seqpacket=MODE]|driver:SOCKET|uds:PATH"

    /// The transport that a text names; see the table at ``VsockTransport``.
    /// - Throws: ``TransportError`` with what is wrong and what would be right.
    public init(_ text: String) throws(TransportError) {
        // No key follows this path, so it may have commas.
        if text.hasPrefix("uds:"), text != "uds:" {
            self = .uds(String(text.dropFirst(4)))
            return
        }
        var parts = text.split(separator: ",", omittingEmptySubsequences: false).map(String.init)
        let head = parts.removeFirst().split(separator: ":", maxSplits: 1, omittingEmptySubsequences: false)
        let name = String(head[0])
        let path = head.count == 2 ? String(head[1]) : nil
        switch name {
        case "kernel", "loopback":
            guard path == nil else { throw TransportError("\(text): \(name) takes no path") }
        case "driver", "device", "uds":
            guard path?.isEmpty == false else { throw TransportError("\(name): needs the path of a socket") }
        default:
            throw TransportError("\"\(text)\" is no transport: use \(Self.grammar)")
        }
        var keys = try Self.keys(parts, of: text)
        let mode = try keys.removeValue(forKey: "seqpacket").map(Self.mode)
        switch (name, path) {
        case ("loopback", _): self = .loopback(seqpacket: mode ?? .auto)
        case ("driver", let path?): self = .driver(path, seqpacket: mode ?? .auto)
        case ("device", let path?):
            let guestCID = try keys.removeValue(forKey: "guest-cid").map(Self.guestCID)
            self = .device(path, guestCID: guestCID ?? Self.defaultGuestCID, seqpacket: mode ?? .auto)
        default:
            guard mode == nil else { throw TransportError("\(text): \(name) has no key seqpacket") }
            self = .kernel
        }
        if let key = keys.keys.first { throw TransportError("\(text): \(name) has no key \"\(key)\"") }
    }

    private static func keys(_ parts: [String], of text: String) throws(TransportError) -> [String: String] {
        var keys: [String: String] = [:]
        for part in parts {
            let pair = part.split(separator: "=", maxSplits: 1, omittingEmptySubsequences: false)
            let key = String(pair[0]).replacing("_", with: "-")
            guard pair.count == 2, !key.isEmpty else {
                throw TransportError("\(text): key=value must follow the comma, not \"\(part)\"")
            }
            guard keys.updateValue(String(pair[1]), forKey: key) == nil else {
                throw TransportError("\(text): \(key) is given twice")
            }
        }
        return keys
    }

    private static func mode(_ value: String) throws(TransportError) -> SeqpacketMode {
        guard let mode = SeqpacketMode(rawValue: value) else {
            throw TransportError("seqpacket=\(value): use auto, standard, rfc-v5 or off")
        }
        return mode
    }

    private static func guestCID(_ value: String) throws(TransportError) -> UInt32 {
        guard let number = UInt32(value), VsockAddress.ContextID(rawValue: number).isGuest else {
            throw TransportError("guest-cid=\(value): use a number from 3 to 4294967294")
        }
        return number
    }
}
