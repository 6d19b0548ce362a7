// SPDX-License-Identifier: Apache-2.0
//
// The first steps of most tests: a connection.

import VsockCore
import VsockWire

/// A handshake did not end in a connection.
public struct HandshakeFailure: Error {
    /// A failure.
    public init() {}
}

extension Endpoint {
    /// Listens on the destination port of `peer` unless it does, takes a REQUEST from it and throws the RESPONSE away.
    public mutating func acceptConnection(from peer: PacketBuilder) throws(HandshakeFailure) -> ConnectionID {
        try? listen(peer.type, port: peer.destinationPort, backlog: 128)
        guard case .accepted(let id) = receive(peer.packet(.request)) else { throw HandshakeFailure() }
        takeAccepted(port: peer.destinationPort)
        _ = allControlPackets()
        return id
    }
}

extension EndpointPair {
    /// Both ends of a connection.
    public struct Ends: Sendable {
        /// The name of the connection at the guest.
        public var guest: ConnectionID
        /// The name of the connection at the host.
        public var host: ConnectionID

        /// The name of the connection at a side.
        public subscript(_ side: Side) -> ConnectionID { side == .guest ? guest : host }
    }

    /// Lets the host listen on `port` unless it does, the guest connect to it, and both finish the handshake.
    public mutating func establish(_ type: SocketType = .stream, port: UInt32 = 1234) throws -> Ends {
        try? self[.host].listen(type, port: port, backlog: 128)
        let instant = now
        let address = VsockAddress(cid: .host, port: VsockAddress.Port(rawValue: port))
        let guest = try self[.guest].connect(type, to: address, now: instant)
        var host: ConnectionID?
        for seen in settle() {
            if case .accepted(let id) = seen.delivery.reception { host = id }
        }
        guard let host, self[.guest].snapshot(guest)?.isEstablished == true else { throw HandshakeFailure() }
        self[.host].takeAccepted(port: port)
        return Ends(guest: guest, host: host)
    }
}
