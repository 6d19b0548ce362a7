// SPDX-License-Identifier: Apache-2.0
//
// What became of a packet. The damage of a bad one has a scope in the type: the packet, or one connection.

import VsockWire

/// Why a packet was dropped.
public enum DropReason: Sendable, Hashable, CaseIterable {
    /// The source is not the peer of this endpoint, or a reserved address bit is set.
    case foreignSource
    /// No connection has these addresses; answered with a reset unless the packet is one.
    case noConnection
    /// The destination is not this endpoint; answered with a reset.
    case foreignDestination
    /// The socket type is unknown or not the connection's; answered with a reset.
    case wrongType
    /// The connection is ending and takes no more of these.
    case ending
    /// A limit is reached; answered with a reset.
    case limitReached
    /// No one listens there; answered with a reset.
    case noListener
}

/// What a received packet means to whoever owns the connection.
public enum Reception: Sendable, Equatable {
    /// The core has dealt with it.
    case handled
    /// It was dropped.
    case dropped(DropReason)
    /// The peer asks for a connection: ``Endpoint/accept(_:)`` or ``Endpoint/refuse(_:)`` it.
    case requested(ConnectionID)
    /// A listener has taken the connection.
    case accepted(ConnectionID)
    /// The peer has accepted our request.
    case connected(ConnectionID)
    /// The peer did not accept our request; the connection is gone.
    case connectFailed(ConnectionID, SocketError)
    /// Payload has come: deal with the bytes as the verdict says, then ``Endpoint/consume(_:byteCount:)`` them.
    case payload(ConnectionID, PayloadVerdict)
    /// The peer gives up directions it had not given up before; all that it has given up by now.
    case peerShutdown(ConnectionID, ShutdownFlags)
    /// The connection is gone: reset by the peer, or by the core because the peer broke the protocol.
    case reset(ConnectionID, ResetCause)

    /// Why an established connection ended.
    public enum ResetCause: Sendable, Hashable {
        /// The peer sent RST.
        case byPeer
        /// The peer sent more than the buffer holds.
        case creditExceeded
        /// The peer sent an operation that does not exist or does not belong here.
        case unknownOperation
    }
}

/// A timer that has run out.
public enum Expiry: Sendable, Equatable {
    /// The peer did not answer our request; the connection is gone.
    case connectTimedOut(ConnectionID)
    /// The peer did not end a closed connection; it is reset now.
    case closeTimedOut(ConnectionID)
}
