// SPDX-License-Identifier: Apache-2.0

@testable import VsockTransport

extension VsockDevice {
    /// The host of a device whose host is the file system.
    var host: HybridHost {
        guard let host = hostSide as? HybridHost else { preconditionFailure("a device with another host") }
        return host
    }
}
