// SPDX-License-Identifier: Apache-2.0
//
// What an endpoint is told at its start, with the limits that keep it bounded.

import VsockWire

/// Identity, framing and limits of an ``Endpoint``.
public struct EndpointConfiguration: Sendable {
    /// Linux gives up connecting after two seconds (`VSOCK_DEFAULT_CONNECT_TIMEOUT`).
    public static let defaultConnectTimeoutNanoseconds: UInt64 = 2_000_000_000
    /// Linux waits eight seconds for the reset that ends a connection (`VSOCK_CLOSE_TIMEOUT`).
    public static let defaultCloseTimeoutNanoseconds: UInt64 = 8_000_000_000
    /// Linux's default buffer (`VSOCK_DEFAULT_BUFFER_SIZE`): four of its largest packets.
    public static let defaultBufferByteCount: UInt32 = 256 * 1024
    /// Connections of one device: well above what a guest uses, a few MiB of memory when all are open.
    public static let defaultMaximumConnectionCount = 16_384
    /// Connections that have been asked for and not answered: each waits two seconds at most.
    public static let defaultMaximumHalfOpenCount = 4096
    /// Resets owed to packets without a connection. A carrier stops taking packets when they are not fetched, which
    /// is the "additional resources" of virtio 1.3 "Socket Device / Virtqueue Flow Control".
    public static let defaultMaximumReplyCount = 256
    /// Ports of outgoing connections where nobody asks for one: what clients of hybrid sockets know from Firecracker.
    public static let defaultEphemeralPorts: ClosedRange<UInt32> = 0x4000_0000...0x7fff_ffff

    /// The context ID of this side.
    public var localCID: VsockAddress.ContextID
    /// Whether this side answers for whatever context ID a packet is sent to, the owner having checked that it may:
    /// for a device that is the other guests to its own.
    public var answersForAnyCID = false
    /// The only peer there is; nil when packets may come from any context ID.
    public var peerCID: VsockAddress.ContextID?
    /// How records are marked.
    public var framing: RecordFraming
    /// Receive buffer of a connection, in bytes.
    public var bufferByteCount = defaultBufferByteCount
    /// Local ports of outgoing connections.
    public var ephemeralPorts = defaultEphemeralPorts
    /// See ``defaultConnectTimeoutNanoseconds``.
    public var connectTimeoutNanoseconds = defaultConnectTimeoutNanoseconds
    /// See ``defaultCloseTimeoutNanoseconds``.
    public var closeTimeoutNanoseconds = defaultCloseTimeoutNanoseconds
    /// A sender that has run out of packets, not of bytes, asks this often what the peer has read: Linux before 6.8
    /// does not tell of a few bytes while there is plenty of space, and knows nothing of a limit of packets.
    public var creditProbeNanoseconds: UInt64 = 100_000_000
    /// Whether a sender holds back when the peer has many unread packets, however few bytes they have: Linux guests
    /// from 6.12.92 on reset a connection otherwise. Linux's own sender does not.
    public var limitsUnreadPackets = true
    /// See ``defaultMaximumConnectionCount``.
    public var maximumConnectionCount = defaultMaximumConnectionCount
    /// See ``defaultMaximumHalfOpenCount``.
    public var maximumHalfOpenCount = defaultMaximumHalfOpenCount
    /// See ``defaultMaximumReplyCount``.
    public var maximumReplyCount = defaultMaximumReplyCount

    /// A configuration with the default limits.
    public init(localCID: VsockAddress.ContextID, peerCID: VsockAddress.ContextID?, framing: RecordFraming) {
        self.localCID = localCID
        self.peerCID = peerCID
        self.framing = framing
    }
}
