// SPDX-License-Identifier: Apache-2.0
//
// Context IDs and ports on a command line.

import ArgumentParser
import VsockWire

/// Parses the positional arguments of commands.
enum AddressArguments {
    /// A context ID: a number, or a name that vsock(7) gives to one.
    static func contextID(_ text: String) throws -> VsockAddress.ContextID {
        switch text {
        case "host": return .host
        case "local": return .local
        case "hypervisor": return .hypervisor
        default: break
        }
        guard let number = UInt32(text), number != VsockAddress.ContextID.any.rawValue else {
            throw ValidationError(
                "CID is a number from 0 to 4294967294, \"host\" (2) or \"local\" (1), not \"\(text)\"")
        }
        return VsockAddress.ContextID(rawValue: number)
    }

    /// A port. The one that means any port names none.
    static func port(_ text: String) throws -> UInt32 {
        guard let number = UInt32(text), number != VsockAddress.Port.any.rawValue else {
            throw ValidationError("PORT is a number from 0 to 4294967294, not \"\(text)\"")
        }
        return number
    }
}
