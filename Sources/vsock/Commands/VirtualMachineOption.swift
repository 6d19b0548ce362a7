// SPDX-License-Identifier: Apache-2.0
//
// A VM as the user describes it: the value of `--vm` (comma-separated key=value pairs) or an entry of a configuration
// file. Keys and defaults are those of vhost-device-vsock, and `-` and `_` are the same in them.

import VsockTransport

/// What is wrong with a VM's description.
struct VirtualMachineError: Error {
    /// The key that it is about; nil when one is missing.
    var key: String?
    /// One line.
    var description: String
}

/// The values of a VM's keys.
struct VirtualMachineOption {
    /// The context ID of a VM that names none, as in vhost-device-vsock.
    static let defaultGuestCID: UInt32 = 3

    private static let keys = [
        "guest-cid", "socket", "uds-path", "tx-buffer-size", "queue-size", "groups", "seqpacket", "capture",
    ]
    private static let limitKeys = DeviceLimits.Name.allCases.map(\.rawValue)

    private var values: [String: String] = [:]

    /// What a VM has that says nothing of it.
    static let noDefaults = VsockDeviceConfiguration(guestCID: defaultGuestCID, socketPath: "", hybridPath: "")

    /// Parses the value of `--vm`; keys that it has not are as in `defaults`.
    static func parse(
        _ text: String, defaults: VsockDeviceConfiguration = noDefaults
    ) throws(VirtualMachineError) -> VsockDeviceConfiguration {
        var vm = VirtualMachineOption()
        for pair in text.split(separator: ",") {
            let parts = pair.split(separator: "=", maxSplits: 1, omittingEmptySubsequences: false)
            try vm.set(String(parts[0]), parts.count == 2 ? String(parts[1]) : "")
        }
        return try vm.configuration(defaults)
    }

    /// Parses limits, `key=value,…`, on top of others.
    static func limits(_ text: String, on limits: DeviceLimits) throws(VirtualMachineError) -> DeviceLimits {
        var vm = VirtualMachineOption()
        for pair in text.split(separator: ",") {
            let parts = pair.split(separator: "=", maxSplits: 1, omittingEmptySubsequences: false)
            guard limitKeys.contains(String(parts[0]).replacing("_", with: "-")) else {
                throw VirtualMachineError(
                    description: "\(parts[0]) is no limit; there are \(limitKeys.joined(separator: ", "))")
            }
            try vm.set(String(parts[0]), parts.count == 2 ? String(parts[1]) : "")
        }
        return try vm.limits(on: limits)
    }

    /// Gives a key its value.
    mutating func set(_ name: String, _ value: String) throws(VirtualMachineError) {
        let key = name.replacing("_", with: "-")
        let keys = Self.keys + Self.limitKeys
        guard keys.contains(key) else {
            throw VirtualMachineError(
                key: name, description: "unknown key \"\(name)\"; the keys are \(keys.joined(separator: ", "))")
        }
        guard !value.isEmpty else { throw VirtualMachineError(key: name, description: "\(name) needs a value") }
        guard values.updateValue(value, forKey: key) == nil else {
            throw VirtualMachineError(key: name, description: "\(name) is given twice")
        }
    }

    /// The VM, when all that it needs is there.
    func configuration(
        _ defaults: VsockDeviceConfiguration = noDefaults
    ) throws(VirtualMachineError) -> VsockDeviceConfiguration {
        guard let socket = values["socket"] else { throw VirtualMachineError(description: "socket is missing") }
        guard let path = values["uds-path"] else { throw VirtualMachineError(description: "uds-path is missing") }
        var configuration = defaults
        configuration.guestCID = try number("guest-cid") ?? Self.defaultGuestCID
        configuration.socketPath = socket
        configuration.hybridPath = path
        configuration.limits = try limits(on: defaults.limits)
        configuration.bufferByteCount = try number("tx-buffer-size") ?? configuration.bufferByteCount
        configuration.queueSize = try number("queue-size") ?? configuration.queueSize
        if let text = values["groups"] { configuration.groups = try Self.groups(text) }
        if let text = values["seqpacket"] {
            guard let mode = SeqpacketMode(rawValue: text) else {
                throw VirtualMachineError(
                    key: "seqpacket", description: "seqpacket is auto, standard, rfc-v5 or off, not \"\(text)\"")
            }
            configuration.seqpacket = mode
        }
        configuration.capturePath = values["capture"] ?? defaults.capturePath
        return configuration
    }

    /// The groups of `a+b`.
    static func groups(_ text: String) throws(VirtualMachineError) -> Set<String> {
        let names = text.split(separator: "+", omittingEmptySubsequences: false).map(String.init)
        guard !names.contains("") else {
            throw VirtualMachineError(key: "groups", description: "groups is a list such as a+b, not \"\(text)\"")
        }
        return Set(names)
    }

    private func limits(on defaults: DeviceLimits) throws(VirtualMachineError) -> DeviceLimits {
        var limits = defaults
        for name in DeviceLimits.Name.allCases {
            guard let value: Int = try number(name.rawValue) else { continue }
            guard name.range.contains(value) else {
                let range = name.range
                throw VirtualMachineError(
                    key: name.rawValue,
                    description: "\(name.rawValue)=\(value) is not from \(range.lowerBound) to \(range.upperBound)")
            }
            limits[name] = value
        }
        return limits
    }

    private func number<Number: FixedWidthInteger>(_ key: String) throws(VirtualMachineError) -> Number? {
        guard let text = values[key] else { return nil }
        guard let number = Number(text) else {
            throw VirtualMachineError(key: key, description: "\(key)=\(text) is not a number in range")
        }
        return number
    }
}
