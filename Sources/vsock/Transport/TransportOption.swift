// SPDX-License-Identifier: Apache-2.0
//
// The value of `--transport`, one grammar for every command:
//
//      kernel                                            AF_VSOCK of the running kernel
//      loopback                                          in this process
//      device:SOCKET[,guest-cid=N][,seqpacket=MODE]      the host of a VM whose monitor connects to SOCKET
//      driver:SOCKET                                     the guest of the device that listens on SOCKET
//      uds:PATH                                          the hybrid Unix sockets of a running device

import ArgumentParser
import VsockTransport
import VsockWire

/// How the other end is reached.
enum TransportOption: Equatable, Sendable {
    case kernel
    case loopback
    case device(socket: String, guestCID: UInt32, seqpacket: SeqpacketMode)
    case driver(socket: String)
    case hybrid(path: String)

    static let grammar = "kernel|loopback|device:SOCKET[,guest-cid=N][,seqpacket=MODE]|driver:SOCKET|uds:PATH"

    /// Parses the option's value. A path in it has no comma if keys follow.
    static func parse(_ text: String) throws -> TransportOption {
        let parts = text.split(separator: ":", maxSplits: 1, omittingEmptySubsequences: false)
        let kind = String(parts[0])
        let rest = parts.count == 2 ? String(parts[1]) : nil
        switch kind {
        case "kernel", "loopback":
            guard rest == nil else { throw ValidationError("\(kind) takes nothing after it") }
            return kind == "kernel" ? .kernel : .loopback
        case "uds": return .hybrid(path: try path(rest, kind))
        case "driver": return .driver(socket: try path(rest, kind))
        case "device": return try device(try path(rest, kind))
        default: throw ValidationError("the transports are \(grammar)")
        }
    }

    private static func path(_ text: String?, _ kind: String) throws -> String {
        guard let text, !text.isEmpty else { throw ValidationError("\(kind): needs the path of a socket") }
        return text
    }

    private static func device(_ text: String) throws -> TransportOption {
        let fields = text.split(separator: ",", omittingEmptySubsequences: false).map(String.init)
        let socket = try path(fields.first, "device")
        var guestCID: UInt32?
        var seqpacket: SeqpacketMode?
        for field in fields.dropFirst() {
            let pair = field.split(separator: "=", maxSplits: 1, omittingEmptySubsequences: false).map(String.init)
            switch (pair[0].replacing("_", with: "-"), pair.count == 2 ? pair[1] : "") {
            case ("guest-cid", let value):
                guard guestCID == nil else { throw ValidationError("guest-cid is given twice") }
                guard let number = UInt32(value), VsockAddress.ContextID(rawValue: number).isGuest else {
                    throw ValidationError("guest-cid is a number from 3 to 4294967294, not \"\(value)\"")
                }
                guestCID = number
            case ("seqpacket", let value):
                guard seqpacket == nil else { throw ValidationError("seqpacket is given twice") }
                guard let mode = SeqpacketMode(rawValue: value) else {
                    throw ValidationError("seqpacket is auto, standard, rfc-v5 or off, not \"\(value)\"")
                }
                seqpacket = mode
            default: throw ValidationError("unknown key \"\(pair[0])\"; the keys are guest-cid and seqpacket")
            }
        }
        return .device(
            socket: socket, guestCID: guestCID ?? VirtualMachineOption.defaultGuestCID, seqpacket: seqpacket ?? .auto)
    }
}
