// SPDX-License-Identifier: Apache-2.0

import Logging
import VsockSystem

/// The captures of a daemon's VMs. A daemon makes its own; who gives up the right to open files before there is a daemon
/// makes them earlier.
public struct DeviceCaptures: Sendable {
    private let captures: [PacketCapture]

    /// Opens each file that configurations name, once, and puts its capture beside their taps in its place.
    /// - Throws: why a file cannot be captured to; see ``PacketCapture``.
    public init(opening configurations: inout [VsockDeviceConfiguration], log: Logger) throws(SystemCallError) {
        var captures: [String: PacketCapture] = [:]
        for index in configurations.indices {
            guard let path = configurations[index].capturePath else { continue }
            let capture =
                if let known = captures[path] {
                    known
                } else {
                    try PacketCapture(
                        path: path, snapLength: configurations[index].captureSnapLength,
                        byteLimit: configurations[index].captureByteLimit, log: log)
                }
            captures[path] = capture
            configurations[index].capturePath = nil
            configurations[index].tap = PacketTapGroup.joining([configurations[index].tap, capture])
        }
        self.captures = Array(captures.values)
    }

    /// Writes what is left and closes the files, when the devices have stopped.
    public func finish() {
        for capture in captures { capture.finish() }
    }
}
