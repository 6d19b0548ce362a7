// SPDX-License-Identifier: Apache-2.0
//
// The value of `--vm`: comma-separated key=value pairs, with the keys of vhost-device-vsock.

import ArgumentParser
import VsockTransport

enum VirtualMachineOption {
    /// The context ID of a VM that names none, as in vhost-device-vsock.
    static let defaultGuestCID: UInt32 = 3

    private static let keys = [
        "guest-cid", "socket", "uds-path", "tx-buffer-size", "queue-size", "seqpacket", "capture",
    ]

    /// Parses a VM's description.
    static func parse(_ text: String) throws -> VsockDeviceConfiguration {
        var values: [String: String] = [:]
        for pair in text.split(separator: ",") {
            let parts = pair.split(separator: "=", maxSplits: 1, omittingEmptySubsequences: false)
            let key = String(parts[0]).replacing("_", with: "-")
            guard keys.contains(key) else {
                throw ValidationError("--vm: unknown key \"\(parts[0])\"; the keys are \(keys.joined(separator: ", "))")
            }
            guard parts.count == 2, !parts[1].isEmpty else { throw ValidationError("--vm: \(key) needs a value") }
            guard values.updateValue(String(parts[1]), forKey: key) == nil else {
                throw ValidationError("--vm: \(key) is given twice")
            }
        }
        guard let socket = values["socket"] else { throw ValidationError("--vm: socket is missing") }
        guard let path = values["uds-path"] else { throw ValidationError("--vm: uds-path is missing") }
        var configuration = VsockDeviceConfiguration(
            guestCID: try number("guest-cid", values) ?? defaultGuestCID, socketPath: socket, hybridPath: path)
        configuration.bufferByteCount = try number("tx-buffer-size", values) ?? configuration.bufferByteCount
        configuration.queueSize = try number("queue-size", values) ?? configuration.queueSize
        if let text = values["seqpacket"] {
            guard let mode = SeqpacketMode(rawValue: text) else {
                throw ValidationError("--vm: seqpacket is auto, standard, rfc-v5 or off, not \"\(text)\"")
            }
            configuration.seqpacket = mode
        }
        configuration.capturePath = values["capture"]
        return configuration
    }

    private static func number<Number: FixedWidthInteger>(
        _ key: String, _ values: [String: String]
    ) throws -> Number? {
        guard let text = values[key] else { return nil }
        guard let number = Number(text) else { throw ValidationError("--vm: \(key)=\(text) is not a number in range") }
        return number
    }
}
