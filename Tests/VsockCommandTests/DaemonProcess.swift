// SPDX-License-Identifier: Apache-2.0
//
// What a running `vsock serve` has taken of its machine.

import Testing
import VsockSystem

/// Memory and descriptors of another process.
struct DaemonFootprint: CustomStringConvertible {
    /// Memory of its own, in bytes: not that of its files, nor that of guests.
    let anonymousByteCount: Int
    let descriptorCount: Int

    init(of processID: Int32) throws {
        let text = String(decoding: try FileSystem.read("/proc/\(processID)/smaps_rollup", limit: 65536), as: UTF8.self)
        let line = try #require(text.split(separator: "\n").first { $0.hasPrefix("Anonymous:") }, "\(text)")
        anonymousByteCount = 1024 * (line.split(separator: " ").dropFirst().first.flatMap { Int($0) } ?? 0)
        descriptorCount = try FileSystem.names(in: "/proc/\(processID)/fd").count
    }

    var description: String { "\(anonymousByteCount / 1024) KiB, \(descriptorCount) descriptors" }
}
