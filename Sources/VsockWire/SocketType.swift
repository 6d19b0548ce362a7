// SPDX-License-Identifier: Apache-2.0
//
// The `type` field of a packet: virtio 1.3 "Socket Device / Device Operation".
// Open on purpose: a type this stack does not know must be answered with a reset that repeats it.

/// The socket type that a packet belongs to (`VIRTIO_VSOCK_TYPE_*`).
public struct SocketType: RawRepresentable, Hashable, Sendable {
    /// The value on the wire.
    public let rawValue: UInt16

    /// Any value, known or not.
    @inlinable public init(rawValue: UInt16) { self.rawValue = rawValue }

    /// A byte stream (`VIRTIO_VSOCK_TYPE_STREAM`).
    @inlinable public static var stream: SocketType { SocketType(rawValue: 1) }
    /// Records with boundaries (`VIRTIO_VSOCK_TYPE_SEQPACKET`).
    @inlinable public static var seqpacket: SocketType { SocketType(rawValue: 2) }

    /// Whether the standard defines this type.
    @inlinable public var isKnown: Bool { self == .stream || self == .seqpacket }
}

extension SocketType: CustomStringConvertible {
    /// The name that Linux prints in its trace events.
    public var description: String {
        switch self {
        case .stream: "STREAM"
        case .seqpacket: "SEQPACKET"
        default: "type \(rawValue)"
        }
    }
}
