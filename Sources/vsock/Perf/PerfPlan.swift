// SPDX-License-Identifier: Apache-2.0
//
// What is measured, and what each side does for it.

import ArgumentParser
import VsockSystem
import VsockTransport
import VsockWire

/// Which way messages go.
enum PerfDirection: String, CaseIterable, ExpressibleByArgument, Sendable {
    case guestToHost = "guest-to-host"
    case hostToGuest = "host-to-guest"
    case both
    case roundTrip = "round-trip"

    /// What the guest does, and what the host does.
    var roles: (guest: PerfRole, host: PerfRole) {
        switch self {
        case .guestToHost: (.send, .receive)
        case .hostToGuest: (.receive, .send)
        case .both: (.both, .both)
        case .roundTrip: (.ask, .echo)
        }
    }
}

/// What one side does on each of its connections.
enum PerfRole: String, CaseIterable, ExpressibleByArgument, Sendable {
    /// Sends messages until the limit, then closes.
    case send
    /// Receives until the peer closes.
    case receive
    /// Both until the limit.
    case both
    /// Sends a message, waits until it has come back whole, and so on until the limit; then closes.
    case ask
    /// Sends back what comes, until the peer closes.
    case echo

    var sends: Bool { self == .send || self == .both }
    var receives: Bool { self == .receive || self == .both }
}

/// When a sender stops.
enum PerfLimit: Sendable, Equatable {
    /// After so many bytes over all connections, rounded up to whole messages.
    case bytes(Int)
    case nanoseconds(UInt64)
}

/// See the top of the file.
struct PerfPlan: Sendable {
    /// A stream is read into buffers of at least this size, as programs do that expect much.
    static let streamBufferByteCount = 64 << 10

    var type: SocketType
    var messageByteCount: Int
    /// Connections that carry messages.
    var connectionCount: Int
    /// Connections that are open beside them and silent.
    var idleCount = 0
    var limit: PerfLimit
    var port: UInt32
    /// Sends with MSG_ZEROCOPY.
    var usesZeroCopy = false
    var progress: PerfProgress?
    /// Sees the packets that cross in this process.
    var tap: (any PacketTap)?

    /// Bytes that a receiver takes at once.
    var receiveByteCount: Int { type == .stream ? max(messageByteCount, Self.streamBufferByteCount) : messageByteCount }
}

/// Counts down what a sender may still send.
struct PerfQuota {
    /// Messages of less take about as long as to look at the clock.
    private static let looksByteCount = 4096
    private static let messagesPerLook = 32

    private var byteCount: Int
    private let deadline: UInt64
    private var messagesUntilLook = 0

    /// The quota of `share` of `total` parts, which begins at `start`.
    init(_ limit: PerfLimit, start: UInt64, share: Int = 1, of total: Int = 1) {
        switch limit {
        case .bytes(let count):
            byteCount = (count * share + total - 1) / total
            deadline = .max
        case .nanoseconds(let time):
            byteCount = .max
            deadline = start &+ time
        }
    }

    /// Whether another message may be sent, at `now`.
    func allowsMessage(at now: UInt64) -> Bool { byteCount > 0 && now < deadline }

    /// Whether another message of so many bytes may be sent now. Of small ones only some look at the clock.
    mutating func allowsMessage(of messageByteCount: Int) -> Bool {
        guard messagesUntilLook == 0 else {
            messagesUntilLook -= 1
            return byteCount > 0
        }
        guard allowsMessage(at: MonotonicClock.now()) else { return false }
        messagesUntilLook = messageByteCount < Self.looksByteCount ? Self.messagesPerLook - 1 : 0
        return true
    }

    mutating func take(_ count: Int) { byteCount -= count }

    /// Nanoseconds until time ends the quota; nil when it does not.
    func remainingNanoseconds(at now: UInt64) -> UInt64? {
        deadline == .max ? nil : deadline > now ? deadline - now : 0
    }
}
