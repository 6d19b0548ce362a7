// SPDX-License-Identifier: Apache-2.0
//
// One row of a device's socket table, with the names that ss(8) has for sockets of vsock(7) (Linux: vsock_diag).

import VsockCore
import VsockWire

/// A socket as a table shows it.
public struct SocketEntry: Sendable, Equatable {
    /// The states of ss(8).
    public enum State: String, Sendable, CaseIterable {
        /// The guest has been asked for a connection.
        case requestSent = "SYN-SENT"
        /// The guest asks for a connection.
        case requestReceived = "SYN-RECV"
        /// Payload may cross.
        case established = "ESTAB"
        /// Closed on this side; the guest has not said so.
        case closing = "CLOSING"
        /// A program waits for connections.
        case listening = "LISTEN"
    }

    /// Socket type.
    public var type: SocketType
    /// Where it stands.
    public var state: State
    /// This side: the host, or the other guest of the connection.
    public var local: VsockAddress
    /// The guest.
    public var peer: VsockAddress
    /// Bytes of the guest that the program on this side has not taken, without those whose credit the guest has back.
    public var receiveQueueByteCount = 0
    /// Bytes for the guest that its program has not taken: those that have not been sent, and those under way.
    public var sendQueueByteCount = 0
    /// Bytes that the guest may send now.
    public var receiveCredit = 0
    /// Bytes that may be sent to the guest now.
    public var sendCredit = 0

    /// A socket without data.
    public init(type: SocketType, state: State, local: VsockAddress, peer: VsockAddress) {
        self.type = type
        self.state = state
        self.local = local
        self.peer = peer
    }
}

extension SocketEntry {
    /// The connections of an endpoint; `waiting` are the bytes that have not been sent on one.
    static func all(of endpoint: borrowing Endpoint, waiting: (ConnectionID) -> Int) -> [SocketEntry] {
        var entries: [SocketEntry] = []
        for id in endpoint.connectionIDs {
            guard let connection = endpoint.snapshot(id) else { continue }
            var entry = SocketEntry(
                type: connection.type, state: State(connection.state),
                local: VsockAddress(
                    cid: .init(rawValue: connection.localCID), port: .init(rawValue: connection.localPort)),
                peer: VsockAddress(
                    cid: .init(rawValue: connection.peerCID), port: .init(rawValue: connection.peerPort)))
            let credit = connection.credit
            entry.receiveQueueByteCount = Int(credit.receivedByteCount)
            entry.sendQueueByteCount = waiting(id) + Int(credit.unacknowledgedByteCount)
            entry.receiveCredit = max(0, Int(credit.bufferAllocation) - Int(credit.receivedByteCount))
            entry.sendCredit = credit.peerFreeByteCount
            entries.append(entry)
        }
        return entries
    }
}

extension SocketEntry.State {
    init(_ state: ConnectionState) {
        switch state {
        case .connecting: self = .requestSent
        case .requested: self = .requestReceived
        case .established: self = .established
        case .closing: self = .closing
        }
    }
}
