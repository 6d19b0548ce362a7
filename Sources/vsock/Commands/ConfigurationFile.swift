// SPDX-License-Identifier: Apache-2.0
//
// The file of `vsock serve --config`, as vhost-device-vsock has it:
//
//      vms:
//        - guest_cid: 3
//          socket: /run/vm3.sock
//          uds_path: /run/vm3.vsock
//          groups: a+b
//
// The keys are those of `--vm`, with `-` or `_`. Groups may also be a list. What is wrong is named with its line.

import VsockSystem
import VsockTransport
import Yams

enum ConfigurationFile {
    /// A description of as many VMs as there may be is far smaller.
    private static let maximumByteCount = 16 << 20

    /// Reads the VMs of a file; keys that one has not are as in `defaults`.
    static func load(
        _ path: String, defaults: VsockDeviceConfiguration
    ) throws(Failure) -> [VsockDeviceConfiguration] {
        let bytes: [UInt8]
        do throws(SystemCallError) {
            bytes = try FileSystem.read(path, limit: maximumByteCount)
        } catch {
            throw Failure("--config: \(error)")
        }
        do throws(ConfigurationFileError) {
            return try parse(String(decoding: bytes, as: UTF8.self), defaults: defaults)
        } catch {
            throw Failure("\(path):\(error.line): \(error.description)")
        }
    }

    /// Reads the VMs of a text.
    static func parse(
        _ text: String, defaults: VsockDeviceConfiguration = VirtualMachineOption.noDefaults
    ) throws(ConfigurationFileError) -> [VsockDeviceConfiguration] {
        let root: Node?
        do {
            root = try Yams.compose(yaml: text)
        } catch let error as YamlError {
            throw ConfigurationFileError(error)
        } catch {
            throw ConfigurationFileError(line: 1, description: "it cannot be read as YAML")
        }
        guard let root, case .mapping(let mapping) = root else {
            throw ConfigurationFileError(line: root?.line ?? 1, description: "a list vms: is missing")
        }
        for (key, _) in mapping where key.scalar?.string != "vms" {
            throw ConfigurationFileError(
                line: key.line, description: "unknown key \"\(key.scalar?.string ?? "?")\"; the only one is vms")
        }
        guard let list = mapping.first?.value, case .sequence(let entries) = list, !entries.isEmpty else {
            throw ConfigurationFileError(
                line: mapping.first?.value.line ?? root.line, description: "vms is a list of VMs, with at least one")
        }
        return try entries.map { (entry) throws(ConfigurationFileError) in try virtualMachine(entry, defaults) }
    }

    private static func virtualMachine(
        _ entry: Node, _ defaults: VsockDeviceConfiguration
    ) throws(ConfigurationFileError) -> VsockDeviceConfiguration {
        guard case .mapping(let mapping) = entry else {
            throw ConfigurationFileError(line: entry.line, description: "a VM is a list of keys and values")
        }
        var vm = VirtualMachineOption()
        var lines: [String: Int] = [:]
        do throws(VirtualMachineError) {
            for (key, value) in mapping {
                guard let name = key.scalar?.string else {
                    throw VirtualMachineError(description: "a key is a word")
                }
                lines[name.replacing("_", with: "-")] = key.line
                guard let text = text(of: value) else {
                    throw VirtualMachineError(key: name, description: "the value of \(name) is not a word or a number")
                }
                try vm.set(name, text)
            }
            return try vm.configuration(defaults)
        } catch {
            let line = error.key.flatMap { lines[$0.replacing("_", with: "-")] }
            throw ConfigurationFileError(line: line ?? entry.line, description: error.description)
        }
    }

    private static func text(of value: Node) -> String? {
        switch value {
        case .scalar(let scalar): return scalar.string
        case .sequence(let items):
            let names = items.compactMap { $0.scalar?.string }
            return names.count == items.count ? names.joined(separator: "+") : nil
        default: return nil
        }
    }
}

/// What is wrong with a configuration file.
struct ConfigurationFileError: Error {
    /// The line, from 1.
    var line: Int
    /// One line of text.
    var description: String
}

extension ConfigurationFileError {
    fileprivate init(_ error: YamlError) {
        switch error {
        case .scanner(_, let problem, let mark, _), .parser(_, let problem, let mark, _),
            .composer(_, let problem, let mark, _):
            self.init(line: mark.line, description: "\(problem)")
        case .duplicatedKeysInMapping(let duplicates, let context):
            let keys = duplicates.compactMap { "\($0)" }.joined(separator: ", ")
            self.init(line: context.mark.line, description: "given twice: \(keys)")
        default:
            self.init(line: 1, description: "it is not YAML")
        }
    }
}

extension Node {
    fileprivate var line: Int { mark?.line ?? 1 }
}
