// SPDX-License-Identifier: Apache-2.0
//
// `struct virtio_vsock_seq_hdr` of the RFC v5 series: the 8-byte payload of SEQ_BEGIN and SEQ_END.

/// Payload of an RFC v5 record marker.
public struct SequenceHeader: Equatable, Sendable {
    /// Bytes of a marker's payload.
    public static let byteCount = 8

    /// Counter of the marker; SEQ_END carries that of its SEQ_BEGIN plus one (`msg_cnt`).
    public var messageCount: UInt32
    /// Bytes of the record in SEQ_BEGIN, 0 in SEQ_END (`msg_len`).
    public var messageByteCount: UInt32

    /// A marker's payload.
    @inlinable
    public init(messageCount: UInt32, messageByteCount: UInt32) {
        self.messageCount = messageCount
        self.messageByteCount = messageByteCount
    }

    /// Reads a payload of exactly 8 bytes; nil for any other length.
    @inlinable
    public init?(_ bytes: UnsafeRawBufferPointer) {
        guard bytes.count == Self.byteCount, let base = bytes.baseAddress else { return nil }
        self.init(messageCount: loadLittleEndian(base, 0), messageByteCount: loadLittleEndian(base, 4))
    }

    /// Writes the 8 bytes; `bytes` must hold at least that many.
    @inlinable
    public func write(to bytes: UnsafeMutableRawBufferPointer) {
        precondition(bytes.count >= Self.byteCount, "a sequence header needs 8 bytes")
        guard let base = bytes.baseAddress else { return }
        storeLittleEndian(messageCount, base, 0)
        storeLittleEndian(messageByteCount, base, 4)
    }
}
