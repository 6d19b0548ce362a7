// SPDX-License-Identifier: Apache-2.0

import Vsock
import VsockCore
import VsockTransport

/// A connection that is relayed.
struct RelaySocket: Sendable {
    let socket: any ConnectibleSocket
    /// Stays open as long as its sockets are used.
    let transport: VsockTransport
    /// What a user knows the peer by.
    let peer: String

    /// Ends a direction. The peer may be gone already, which is no error here.
    func shutdown(_ direction: ShutdownDirection) { try? socket.shutdown(direction) }
}
