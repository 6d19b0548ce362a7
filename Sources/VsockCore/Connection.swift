// SPDX-License-Identifier: Apache-2.0
//
// One connection as the core keeps it (Linux: `struct vsock_sock` with `struct virtio_vsock_sock`). Both socket types
// share everything but the framing of records.
//
//               connect()                                     REQUEST from the peer
//                  |                                                 |
//                  v                                                 v
//            connecting --- RESPONSE ---> established <--- accept() --- requested
//              |    |                       |    |                        |
//     RST,     |    | timer, other op       |    | close()                | refuse()
//     refused  |    | (RST is sent)         |    v                        v
//              |    +------------+     RST  |  closing -- timer 8 s --> resetting --> free
//              v                 v          v    |         (RST is sent)      ^
//             free          resetting      free  | RST                        |
//                                                v                            |
//                                               free      peer shut both, then close()
//
// `resetting` is a slot whose RST has not been handed to the peer yet; it takes no more packets.

import VsockWire

/// Names a connection of one ``Endpoint``: a slot, and how often that slot has been used before, so that a stale name
/// is recognised.
public struct ConnectionID: Hashable, Sendable {
    /// The slot; dense from 0, so that callers can keep their own state in an array beside the core's.
    public let slot: Int32
    /// Distinguishes the connections that used the slot one after another.
    public let generation: UInt32
}

/// The four numbers that tell connections of an endpoint apart.
struct FlowKey: Hashable, Sendable {
    var localCID: UInt32
    var peerCID: UInt32
    var peerPort: UInt32
    var localPort: UInt32

    /// Entries of a cache of flows: those of a few busy hundred connections, in a kilobyte.
    static let cacheEntryCount = 256

    /// Where the flow stands in such a cache. Ports are mostly consecutive, on either side.
    var cacheEntry: Int { Int((peerPort &* 31 &+ localPort &+ peerCID) % UInt32(Self.cacheEntryCount)) }

    func hash(into hasher: inout Hasher) {
        hasher.combine(UInt64(peerPort) << 32 | UInt64(localPort))
        hasher.combine(UInt64(peerCID) << 32 | UInt64(localCID))
    }
}

/// Control packets that a connection owes its peer.
struct PendingControl: OptionSet, Sendable {
    let rawValue: UInt8
    static let reset = PendingControl(rawValue: 1)
    static let request = PendingControl(rawValue: 2)
    static let response = PendingControl(rawValue: 4)
    static let shutdown = PendingControl(rawValue: 8)
    static let creditUpdate = PendingControl(rawValue: 16)
    static let creditRequest = PendingControl(rawValue: 32)
}

struct Connection: Sendable {
    enum State: Sendable, Equatable {
        case free
        case connecting
        case requested
        case established
        case closing
        case resetting

        /// Whether one side has asked for the connection and the other has not answered.
        var isHalfOpen: Bool { self == .connecting || self == .requested }
    }

    var generation: UInt32
    var state = State.free
    var type = SocketType.stream
    var flow: FlowKey
    var credit: CreditAccount
    var receiver: RecordReceiver
    var sender: RecordSender
    var unacknowledged = UnacknowledgedPackets()
    var localShutdown: ShutdownFlags = []
    var peerShutdown: ShutdownFlags = []
    var pending: PendingControl = []
    /// Whether the slot stands in the endpoint's queue of connections with control packets.
    var isQueued = false
    /// Whether the slot stands in the endpoint's queue of connections that got credit.
    var isWritable = false
    /// Whether a sender found too little credit and waits for more.
    var waitsForCredit = false
    /// Credit that the waiting sender needs before it can go on, beyond what any packet needs; a record that must not
    /// be cut short waits for all of it.
    var awaitedByteCount = 0
    /// Packets that it needs to be allowed.
    var awaitedPacketCount = 1
    /// Whether the peer has asked for credit and sent no payload since: it waits.
    var peerWaitsForCredit = false
    /// Whether the peer was asked for credit and has said nothing since.
    var hasRequestedCredit = false
}
