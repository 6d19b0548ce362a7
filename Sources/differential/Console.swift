// SPDX-License-Identifier: Apache-2.0

import VsockSystem

/// The standard streams, unbuffered.
enum Console {
    /// A line on standard output.
    static func say(_ text: String) { _ = write(text + "\n", to: 1) }

    /// A line on standard error.
    static func report(_ text: String) { _ = write(text + "\n", to: 2) }

    /// False when the descriptor takes no more.
    static func write(_ text: String, to descriptor: Int32) -> Bool {
        var bytes = Array(text.utf8)[...]
        while !bytes.isEmpty {
            guard case .count(let count) = bytes.withUnsafeBytes({ DescriptorIO.write(descriptor, from: $0) }) else {
                return false
            }
            bytes = bytes.dropFirst(count)
        }
        return true
    }
}
