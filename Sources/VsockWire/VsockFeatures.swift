// SPDX-License-Identifier: Apache-2.0
//
// virtio 1.3 "Socket Device / Feature bits".

/// Feature bits of a socket device.
public struct VsockFeatures: OptionSet, Hashable, Sendable {
    /// The bits.
    public let rawValue: UInt64

    /// Any bits.
    public init(rawValue: UInt64) { self.rawValue = rawValue }

    /// Stream sockets (`VIRTIO_VSOCK_F_STREAM`).
    public static let stream = VsockFeatures(rawValue: 1 << 0)
    /// Seqpacket sockets in the standard framing (`VIRTIO_VSOCK_F_SEQPACKET`).
    public static let seqpacket = VsockFeatures(rawValue: 1 << 1)
    /// Stream is not implied by other bits (`VIRTIO_VSOCK_F_NO_IMPLIED_STREAM`).
    public static let noImpliedStream = VsockFeatures(rawValue: 1 << 2)

    /// Whether streams may be used once these bits are negotiated: always, except for a driver that asked for
    /// seqpacket alone and said so.
    public var allowsStream: Bool {
        contains(.stream) || !contains(.seqpacket) || !contains(.noImpliedStream)
    }
}
