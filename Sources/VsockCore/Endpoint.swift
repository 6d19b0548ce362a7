// SPDX-License-Identifier: Apache-2.0
//
// One side of a vsock device: all its connections and listeners. It follows Linux's virtio_transport_common.c, with
// no clock, no thread, no descriptor and no payload: packets' headers go in, headers come out, bytes are counted.
//
// Four kinds of methods:
//
//      receive, expire           input from outside; they say what happened and never call out
//      connect, accept, send...  commands of the application, named after the POSIX calls
//      nextControlPacket,        output, produced when the carrier has room for it
//      nextPacket
//      everything else           questions
//
// A carrier that has room calls `nextControlPacket` until nil, then `nextPacket` for connections that have something
// to send. It arms one timer for `nextDeadline` and calls `expire` until nil when that has come.
//
// Each of these has a file: Endpoint+Receive, Endpoint+Commands, Endpoint+Transmit.

import VsockWire

/// All connections of one side of a vsock device.
public struct Endpoint: ~Copyable, Sendable {
    /// Identity and limits.
    public internal(set) var configuration: EndpointConfiguration
    /// What has happened so far.
    public internal(set) var counters = EndpointCounters()

    var connections = ConnectionSlots()
    var freeSlots: [Int32] = []
    var flows: [FlowKey: Int32] = [:]
    /// The slots of flows looked up lately, so that a packet costs no hash that a peer cannot foresee: whoever makes its
    /// flows collide here only gets that hash back. An entry may be stale; the connection says whose it is.
    var recentSlots = [Int32](repeating: 0, count: FlowKey.cacheEntryCount)
    /// Connections that have been asked for and not answered.
    public internal(set) var halfOpenCount = 0
    var listeners: [UInt32: Listener] = [:]
    var asksForUnboundPorts = false
    var timers = TimerQueue()
    var controlQueue = SlotQueue()
    var writableQueue = SlotQueue()
    var replies: [PacketHeader] = []
    var replyHead = 0
    var nextEphemeralPort: UInt32
    /// Keeps values of this type in memory. Without it the compiler passes them to methods that only look at them as a
    /// copy of all their 300 bytes, several times for every packet; with a member whose size it does not know, by address.
    private let staysInMemory: (any Sendable)? = nil
    /// The time that was passed in last.
    var latestInstant = Instant(nanoseconds: 0)

    /// An endpoint without connections.
    public init(_ configuration: EndpointConfiguration) {
        self.configuration = configuration
        nextEphemeralPort = configuration.ephemeralPorts.lowerBound
        replies.reserveCapacity(2 * configuration.maximumReplyCount)
    }

    /// Connections that are not free.
    public var connectionCount: Int { connections.count - freeSlots.count }

    /// Whether another packet can be received: false while too many resets wait to be fetched.
    public var canReceive: Bool { replies.count - replyHead < configuration.maximumReplyCount }

    /// When ``expire(now:)`` wants to be called next.
    public var nextDeadline: Instant? { timers.earliest }

    /// Whether `id` names a connection that still exists.
    public func exists(_ id: ConnectionID) -> Bool { slot(id) != nil }

    /// What is known of a connection; nil when it is gone.
    public func snapshot(_ id: ConnectionID) -> ConnectionSnapshot? {
        guard let slot = slot(id), let state = ConnectionState(connections[slot].state) else { return nil }
        let connection = connections[slot]
        return ConnectionSnapshot(
            type: connection.type, localCID: connection.flow.localCID, localPort: connection.flow.localPort,
            peerCID: connection.flow.peerCID, peerPort: connection.flow.peerPort, credit: connection.credit,
            localShutdown: connection.localShutdown, peerShutdown: connection.peerShutdown,
            state: state)
    }

    /// The connection that a packet of the peer belongs to; nil when there is none that goes on.
    public func connection(of header: PacketHeader) -> ConnectionID? {
        let flow = FlowKey(
            localCID: UInt32(truncatingIfNeeded: header.destinationCID),
            peerCID: UInt32(truncatingIfNeeded: header.sourceCID), peerPort: header.sourcePort,
            localPort: header.destinationPort)
        guard let found = flows[flow], connections[Int(found)].state != .resetting else { return nil }
        return id(Int(found))
    }

    /// Names of all connections, in slot order.
    public var connectionIDs: [ConnectionID] {
        var ids: [ConnectionID] = []
        for slot in 0..<connections.count where connections[slot].state != .free { ids.append(id(slot)) }
        return ids
    }

    // MARK: Slots

    func slot(_ id: ConnectionID) -> Int? {
        let slot = Int(id.slot)
        guard slot >= 0, slot < connections.count, connections[slot].generation == id.generation,
            connections[slot].state != .free, connections[slot].state != .resetting
        else { return nil }
        return slot
    }

    /// The slot of a flow.
    mutating func slot(_ flow: FlowKey) -> Int? {
        let entry = flow.cacheEntry
        let recent = Int(recentSlots[entry])
        if recent < connections.count, connections[recent].flow == flow, connections[recent].state != .free {
            return recent
        }
        guard let found = flows[flow] else { return nil }
        recentSlots[entry] = found
        return Int(found)
    }

    func id(_ slot: Int) -> ConnectionID {
        ConnectionID(slot: Int32(truncatingIfNeeded: slot), generation: connections[slot].generation)
    }

    /// Takes a slot for a flow that is not in the table; nil when the limit is reached.
    mutating func allocate(_ flow: FlowKey, type: SocketType, state: Connection.State) -> Int? {
        guard !state.isHalfOpen || halfOpenCount < configuration.maximumHalfOpenCount else {
            counters.refusedByLimit += 1
            return nil
        }
        let slot: Int
        var connection = Connection(
            generation: 0, state: state, type: type, flow: flow,
            credit: CreditAccount(bufferAllocation: configuration.bufferByteCount),
            receiver: RecordReceiver(configuration.framing), sender: RecordSender(configuration.framing))
        if let free = freeSlots.popLast() {
            slot = Int(free)
            connection.generation = connections[slot].generation &+ 1
            // A slot that is freed while it is queued stays in the queues and is skipped there.
            connection.isQueued = connections[slot].isQueued
            connection.isWritable = connections[slot].isWritable
            connections[slot] = connection
        } else {
            guard connections.count < configuration.maximumConnectionCount else {
                counters.refusedByLimit += 1
                return nil
            }
            slot = connections.count
            connections.append(connection)
        }
        if state.isHalfOpen { halfOpenCount += 1 }
        flows[flow] = Int32(truncatingIfNeeded: slot)
        counters.connectionsOpened += 1
        return slot
    }

    /// Gives a connection another state.
    mutating func move(_ slot: Int, to state: Connection.State) {
        if connections[slot].state.isHalfOpen { halfOpenCount -= 1 }
        if state.isHalfOpen { halfOpenCount += 1 }
        connections[slot].state = state
    }

    mutating func free(_ slot: Int) {
        timers.cancel(slot)
        flows[connections[slot].flow] = nil
        move(slot, to: .free)
        connections[slot].pending = []
        freeSlots.append(Int32(truncatingIfNeeded: slot))
        counters.connectionsClosed += 1
    }

    /// Ends a connection with an RST to the peer.
    mutating func reset(_ slot: Int) {
        timers.cancel(slot)
        move(slot, to: .resetting)
        connections[slot].pending = []
        enqueue(slot, .reset)
    }

    mutating func enqueue(_ slot: Int, _ control: PendingControl) {
        connections[slot].pending.insert(control)
        if !connections[slot].isQueued {
            connections[slot].isQueued = true
            controlQueue.append(slot)
        }
    }
}

/// What an ``Endpoint`` tells of a connection.
public struct ConnectionSnapshot: Sendable, Equatable {
    /// Socket type.
    public var type: SocketType
    /// Context ID of this side.
    public var localCID: UInt32
    /// Port on this side.
    public var localPort: UInt32
    /// Context ID of the peer.
    public var peerCID: UInt32
    /// Port of the peer.
    public var peerPort: UInt32
    /// Buffer space both ways.
    public var credit: CreditAccount
    /// Directions that this side has given up.
    public var localShutdown: ShutdownFlags
    /// Directions that the peer has given up.
    public var peerShutdown: ShutdownFlags
    /// Where it stands.
    public var state: ConnectionState
    /// Whether payload may cross.
    public var isEstablished: Bool { state == .established }
}

/// Where a connection stands.
public enum ConnectionState: Sendable, Hashable {
    /// The peer has been asked for it.
    case connecting
    /// The peer asks for it.
    case requested
    /// Payload may cross.
    case established
    /// This side has closed it, and waits for the peer to say so.
    case closing

    init?(_ state: Connection.State) {
        switch state {
        case .connecting: self = .connecting
        case .requested: self = .requested
        case .established: self = .established
        case .closing: self = .closing
        case .free, .resetting: return nil
        }
    }
}

/// Counts of an ``Endpoint``, since its start.
public struct EndpointCounters: Sendable, Equatable {
    /// Packets received.
    public var receivedPackets = 0
    /// Payload bytes received.
    public var receivedBytes = 0
    /// Packets produced.
    public var transmittedPackets = 0
    /// Payload bytes produced.
    public var transmittedBytes = 0
    /// Packets dropped, for whatever reason.
    public var droppedPackets = 0
    /// Connections that took a slot.
    public var connectionsOpened = 0
    /// Connections that gave their slot back.
    public var connectionsClosed = 0
    /// Connections refused because ``EndpointConfiguration/maximumConnectionCount`` or
    /// ``EndpointConfiguration/maximumHalfOpenCount`` was reached.
    public var refusedByLimit = 0
}

/// A port that takes connections.
struct Listener: Sendable {
    var type: SocketType
    var backlog: Int
    var waitingCount = 0
}
