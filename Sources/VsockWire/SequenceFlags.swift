// SPDX-License-Identifier: Apache-2.0
//
// The `flags` of an RW packet on a SOCK_SEQPACKET connection. Bit 0 has two meanings that never meet on one device:
// virtio 1.2+ "Socket Device / Message and Record Boundaries" has SEQ_EOM there, the RFC v5 series has RW_EOR.

/// Boundary marks of an RW packet.
public struct SequenceFlags: OptionSet, Hashable, Sendable {
    /// The value on the wire.
    public let rawValue: UInt32

    /// Any bits; unknown ones are ignored by receivers.
    @inlinable public init(rawValue: UInt32) { self.rawValue = rawValue }

    /// Standard framing: last packet of a message (`VIRTIO_VSOCK_SEQ_EOM`).
    @inlinable public static var endOfMessage: SequenceFlags { SequenceFlags(rawValue: 1) }
    /// Standard framing: the message was sent with MSG_EOR (`VIRTIO_VSOCK_SEQ_EOR`).
    @inlinable public static var endOfRecord: SequenceFlags { SequenceFlags(rawValue: 2) }
    /// RFC v5 framing: every RW of a record sent with MSG_EOR carries it (`VIRTIO_VSOCK_RW_EOR`).
    @inlinable public static var rfcV5EndOfRecord: SequenceFlags { SequenceFlags(rawValue: 1) }
}
