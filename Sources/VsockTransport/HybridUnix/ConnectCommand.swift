// SPDX-License-Identifier: Apache-2.0
//
// The text with which a host program asks for a port of the guest: the union of what clients of Firecracker, Cloud
// Hypervisor and vhost-device-vsock rely on.
//
//      CONNECT <port>\n       keyword in any case, any run of blanks, port a decimal 32-bit number
//      OK <host port>\n       the answer, once the guest has accepted; otherwise the socket is closed

import VsockWire

/// Parses the command of a hybrid socket's client.
enum ConnectCommand {
    /// A command is refused when no newline has come within so many bytes: the longest sensible one has 19.
    static let maximumByteCount = 64

    /// Why a command is refused.
    enum Defect: Error, Equatable {
        case notAConnect
        case badPort
        case trailingText
        case tooLong
    }

    /// Parses a command without its newline.
    static func parse(_ line: some Sequence<UInt8>) throws(Defect) -> UInt32 {
        let words = line.split { $0 == UInt8(ascii: " ") || $0 == UInt8(ascii: "\t") || $0 == UInt8(ascii: "\r") }
        guard let keyword = words.first, keyword.map({ $0 & ~0x20 }).elementsEqual("CONNECT".utf8) else {
            throw .notAConnect
        }
        guard words.count > 1 else { throw .badPort }
        guard words.count == 2 else { throw .trailingText }
        return try parsePort(words[1])
    }

    /// The text that answers an accepted connection.
    static func answer(hostPort: UInt32) -> [UInt8] { Array("OK \(hostPort)\n".utf8) }

    private static func parsePort(_ digits: some Collection<UInt8>) throws(Defect) -> UInt32 {
        let digits = digits.first == UInt8(ascii: "+") ? digits.dropFirst() : digits.dropFirst(0)
        var port: UInt32 = 0
        guard !digits.isEmpty else { throw .badPort }
        for digit in digits {
            guard (UInt8(ascii: "0")...UInt8(ascii: "9")).contains(digit) else { throw .badPort }
            let (product, overflow) = port.multipliedReportingOverflow(by: 10)
            let (sum, carry) = product.addingReportingOverflow(UInt32(digit - UInt8(ascii: "0")))
            guard !overflow, !carry else { throw .badPort }
            port = sum
        }
        // VMADDR_PORT_ANY names no port.
        guard port != VsockAddress.Port.any.rawValue else { throw .badPort }
        return port
    }
}
