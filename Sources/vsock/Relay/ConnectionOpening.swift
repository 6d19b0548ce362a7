// SPDX-License-Identifier: Apache-2.0
//
// How a connection comes about: a socket to relay, by connecting or from a listener.

import VsockSystem

/// Something that listens.
protocol ConnectionListener {
    /// Readable while a connection is waiting.
    var rawDescriptor: Int32 { get }
    /// Where it listens, for a user.
    var address: String { get }
    /// The next connection, nil if none is waiting.
    func accept() throws -> RelaySocket?
}

extension ConnectionListener {
    /// Waits for a connection.
    func next() throws -> RelaySocket {
        while true {
            _ = try DescriptorIO.waitUntilReady(rawDescriptor, for: .readable, timeoutNanoseconds: nil)
            if let socket = try accept() { return socket }
        }
    }
}
