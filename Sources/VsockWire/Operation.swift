// SPDX-License-Identifier: Apache-2.0
//
// The `op` field of a packet: virtio 1.3 "Socket Device / Device Operation"; SEQ_BEGIN and SEQ_END as in the
// RFC v5 SOCK_SEQPACKET series, which uses the values 8 and 9.

/// What a packet does (`VIRTIO_VSOCK_OP_*`).
public struct Operation: RawRepresentable, Hashable, Sendable {
    /// The value on the wire.
    public let rawValue: UInt16

    /// Any value, known or not.
    @inlinable public init(rawValue: UInt16) { self.rawValue = rawValue }

    /// Never valid (`VIRTIO_VSOCK_OP_INVALID`).
    @inlinable public static var invalid: Operation { Operation(rawValue: 0) }
    /// Asks for a connection.
    @inlinable public static var request: Operation { Operation(rawValue: 1) }
    /// Accepts a connection.
    @inlinable public static var response: Operation { Operation(rawValue: 2) }
    /// Refuses or ends a connection.
    @inlinable public static var reset: Operation { Operation(rawValue: 3) }
    /// Announces that one or both directions end; see ``ShutdownFlags``.
    @inlinable public static var shutdown: Operation { Operation(rawValue: 4) }
    /// Carries payload.
    @inlinable public static var readWrite: Operation { Operation(rawValue: 5) }
    /// Carries buffer space and nothing else.
    @inlinable public static var creditUpdate: Operation { Operation(rawValue: 6) }
    /// Asks for a credit update.
    @inlinable public static var creditRequest: Operation { Operation(rawValue: 7) }
    /// Opens a record (RFC v5 only); payload is a ``SequenceHeader``.
    @inlinable public static var sequenceBegin: Operation { Operation(rawValue: 8) }
    /// Closes a record (RFC v5 only); payload is a ``SequenceHeader``.
    @inlinable public static var sequenceEnd: Operation { Operation(rawValue: 9) }
}

extension Operation: CustomStringConvertible {
    /// The name that Linux prints in its trace events.
    public var description: String {
        switch self {
        case .invalid: "INVALID"
        case .request: "REQUEST"
        case .response: "RESPONSE"
        case .reset: "RST"
        case .shutdown: "SHUTDOWN"
        case .readWrite: "RW"
        case .creditUpdate: "CREDIT_UPDATE"
        case .creditRequest: "CREDIT_REQUEST"
        case .sequenceBegin: "SEQ_BEGIN"
        case .sequenceEnd: "SEQ_END"
        default: "op \(rawValue)"
        }
    }
}
