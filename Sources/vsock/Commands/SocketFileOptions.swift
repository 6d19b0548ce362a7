// SPDX-License-Identifier: Apache-2.0
//
// Permissions and owner of the sockets that a command creates, as chmod(1) and chown(1) write them.

import ArgumentParser
import VsockSystem

/// Permissions in octal.
struct SocketMode: ExpressibleByArgument, Equatable {
    let bits: UInt32

    init(_ bits: UInt32) { self.bits = bits }

    init?(argument: String) {
        guard let bits = UInt32(argument, radix: 8), bits & ~0o777 == 0 else { return nil }
        self.bits = bits
    }

    var defaultValueDescription: String { "0" + String(bits, radix: 8) }
}

extension FileOwner: ExpressibleByArgument {
    public init?(argument: String) { self.init(argument) }
}
