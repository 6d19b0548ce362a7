// SPDX-License-Identifier: Apache-2.0

import VsockCore
import VsockSystem
import VsockWire

/// Which record framing a device uses; the key `seqpacket=` of the command line.
public enum SeqpacketMode: String, Sendable, CaseIterable {
    /// Offers SEQPACKET; a driver that accepts it gets the standard framing, any other the one of RFC v5.
    case auto
    /// Offers SEQPACKET and resets seqpacket connections of a driver that does not accept it.
    case standard
    /// Does not offer SEQPACKET and speaks the framing of RFC v5.
    case rfcV5 = "rfc-v5"
    /// Resets all seqpacket connections.
    case off

    /// Whether the device offers VIRTIO_VSOCK_F_SEQPACKET.
    var offersFeature: Bool { self == .auto || self == .standard }

    /// The framing for a driver that has, or has not, accepted the feature.
    func framing(isNegotiated: Bool) -> RecordFraming {
        switch self {
        case .auto: isNegotiated ? .standard : .rfcV5
        case .standard: isNegotiated ? .standard : .none
        case .rfcV5: .rfcV5
        case .off: .none
        }
    }
}

/// What one VM's device is made of.
public struct VsockDeviceConfiguration: Sendable {
    /// Payload bytes that a guest may have in flight on one connection, by default.
    public static let defaultBufferByteCount: UInt32 = EndpointConfiguration.defaultBufferByteCount
    /// Descriptors that a queue may have, by default.
    public static let defaultQueueSize = 1024

    /// The guest's context ID: 3 to 0xfffffffe.
    public var guestCID: UInt32
    /// The vhost-user socket that the VM's monitor connects to.
    public var socketPath: String
    /// `PATH` of the host's Unix sockets.
    public var hybridPath: String
    /// Guests of one daemon that share a group reach each other.
    public var groups: Set<String> = ["default"]
    /// Record framing.
    public var seqpacket = SeqpacketMode.auto
    /// Receive buffer of each connection, in bytes.
    public var bufferByteCount = defaultBufferByteCount
    /// Largest queue that a driver may set up, in descriptors; a power of two.
    public var queueSize = defaultQueueSize
    /// What else the VM may take.
    public var limits = DeviceLimits()
    /// Permissions of the sockets that are created.
    public var socketMode: UInt32 = 0o600
    /// Who they belong to; nil for the user of this process.
    public var socketOwner: FileOwner?
    /// How long a host program may take to say CONNECT: one that means it does so at once.
    public var clientTimeoutNanoseconds: UInt64 = 10_000_000_000
    /// How long the guest may take to answer a connection request.
    public var connectTimeoutNanoseconds = EndpointConfiguration.defaultConnectTimeoutNanoseconds
    /// How long the guest may take to end a connection that the host program has closed.
    public var closeTimeoutNanoseconds = EndpointConfiguration.defaultCloseTimeoutNanoseconds
    /// Where a ``DeviceDaemon`` captures the packets of the device (see ``PacketCapture``); nil for nowhere. Several VMs
    /// may name the same file.
    public var capturePath: String?
    /// Bytes of a packet that a capture keeps.
    public var captureSnapLength = PacketCapture.defaultSnapLength
    /// Bytes of a capture's file at which it ends; nil for no limit.
    public var captureByteLimit: UInt64?
    /// Sees every packet of the device, besides a log of level `trace`.
    public var tap: (any PacketTap)?

    /// A configuration with default limits.
    public init(guestCID: UInt32, socketPath: String, hybridPath: String) {
        self.guestCID = guestCID
        self.socketPath = socketPath
        self.hybridPath = hybridPath
    }
}
