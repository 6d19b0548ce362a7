// SPDX-License-Identifier: Apache-2.0

/// A failure of a command: one line that names the thing and the remedy. Exit status 1.
struct Failure: Error, CustomStringConvertible {
    let description: String

    init(_ description: String) { self.description = description }
}
