// SPDX-License-Identifier: Apache-2.0

/// A transport that cannot be used: one line that names the thing.
public struct TransportError: Error, Hashable, Sendable, CustomStringConvertible {
    /// The line.
    public let description: String

    /// An error with its line.
    public init(_ description: String) { self.description = description }
}
