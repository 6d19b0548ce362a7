// SPDX-License-Identifier: Apache-2.0

import VsockSystem

/// The command's standard streams, unbuffered: what is said is there at once, in a pipe as on a terminal.
enum Console {
    /// Writes a line to standard output.
    static func say(_ text: String) { write(text + "\n", to: 1) }

    /// Writes the beginning of a line to standard output.
    static func begin(_ text: String) { write(text, to: 1) }

    /// Writes a line to standard error.
    static func report(_ text: String) { write(text + "\n", to: 2) }

    /// Replaces the line that the cursor of standard error is in, which is a terminal.
    static func redraw(_ text: String) { write("\r\u{1B}[K" + text, to: 2) }

    private static func write(_ text: String, to descriptor: Int32) {
        var bytes = Array(text.utf8)[...]
        while !bytes.isEmpty {
            guard case .count(let count) = bytes.withUnsafeBytes({ DescriptorIO.write(descriptor, from: $0) }) else {
                return
            }
            bytes = bytes.dropFirst(count)
        }
    }
}
