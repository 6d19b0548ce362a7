// SPDX-License-Identifier: Apache-2.0
//
// What a running `vsock serve` has taken of its machine.

import Testing
import VsockSystem

/// Memory and descriptors of another process.
struct DaemonFootprint: CustomStringConvertible {
    /// Memory of its own, in bytes: not that of its files, nor that of guests.
    let anonymousByteCount: Int
    /// All that is in memory, with what it shares with its files and with guests.
    let residentByteCount: Int
    let descriptorCount: Int

    init(of processID: Int32) throws {
        // First: with the last descriptor of a guest its memory has gone.
        descriptorCount = try FileSystem.names(in: "/proc/\(processID)/fd").count
        let text = String(decoding: try FileSystem.read("/proc/\(processID)/smaps_rollup", limit: 65536), as: UTF8.self)
        func byteCount(_ name: String) throws -> Int {
            let line = try #require(text.split(separator: "\n").first { $0.hasPrefix(name) }, "\(text)")
            return 1024 * (line.split(separator: " ").dropFirst().first.flatMap { Int($0) } ?? 0)
        }
        anonymousByteCount = try byteCount("Anonymous:")
        residentByteCount = try byteCount("Rss:")
    }

    var description: String {
        "\(anonymousByteCount / 1024) KiB of its own, \(residentByteCount / 1024) KiB in all, \(descriptorCount) descriptors"
    }
}
