// SPDX-License-Identifier: Apache-2.0
//
// `struct virtio_vsock_hdr`: virtio 1.3 "Socket Device / Device Operation". Little-endian, packed, 44 bytes:
//
//      0        8        16      20      24     28     30     32      36          40        44
//      | src_cid | dst_cid | sport | dport | len  | type | op   | flags | buf_alloc | fwd_cnt |
//
// Shared memory is read once into this value and all decisions are taken on the copy: a guest may change its buffers
// at any time.

/// The header of every packet of a socket device.
public struct PacketHeader: Equatable, Sendable {
    /// Bytes of a header on the wire.
    public static let byteCount = 44
    /// Largest payload of one packet, in bytes (Linux: `VIRTIO_VSOCK_MAX_PKT_BUF_SIZE`).
    public static let maximumPayloadByteCount = 64 * 1024

    /// Context ID of the sender; the upper 32 bits are reserved and zero.
    public var sourceCID: UInt64
    /// Context ID of the receiver; the upper 32 bits are reserved and zero.
    public var destinationCID: UInt64
    /// Port of the sender.
    public var sourcePort: UInt32
    /// Port of the receiver.
    public var destinationPort: UInt32
    /// Payload bytes that follow the header.
    public var payloadByteCount: UInt32
    /// Socket type.
    public var type: SocketType
    /// What the packet does.
    public var operation: Operation
    /// Flags whose meaning depends on the operation.
    public var flags: UInt32
    /// Size in bytes of the sender's receive buffer for this connection (`buf_alloc`).
    public var bufferAllocation: UInt32
    /// Free-running count of payload bytes that the sender has consumed (`fwd_cnt`).
    public var forwardedCount: UInt32

    /// A header with every field given.
    @inlinable
    public init(
        sourceCID: UInt64, destinationCID: UInt64, sourcePort: UInt32, destinationPort: UInt32,
        payloadByteCount: UInt32 = 0, type: SocketType, operation: Operation, flags: UInt32 = 0,
        bufferAllocation: UInt32 = 0, forwardedCount: UInt32 = 0
    ) {
        self.sourceCID = sourceCID
        self.destinationCID = destinationCID
        self.sourcePort = sourcePort
        self.destinationPort = destinationPort
        self.payloadByteCount = payloadByteCount
        self.type = type
        self.operation = operation
        self.flags = flags
        self.bufferAllocation = bufferAllocation
        self.forwardedCount = forwardedCount
    }

    /// Reads a header from the first 44 bytes; nil when there are fewer.
    @inlinable
    public init?(_ bytes: UnsafeRawBufferPointer) {
        guard bytes.count >= Self.byteCount, let base = bytes.baseAddress else { return nil }
        self.init(
            sourceCID: loadLittleEndian(base, 0), destinationCID: loadLittleEndian(base, 8),
            sourcePort: loadLittleEndian(base, 16), destinationPort: loadLittleEndian(base, 20),
            payloadByteCount: loadLittleEndian(base, 24),
            type: SocketType(rawValue: loadLittleEndian(base, 28)),
            operation: Operation(rawValue: loadLittleEndian(base, 30)),
            flags: loadLittleEndian(base, 32), bufferAllocation: loadLittleEndian(base, 36),
            forwardedCount: loadLittleEndian(base, 40))
    }

    /// Writes the 44 bytes; `bytes` must hold at least that many.
    @inlinable
    public func write(to bytes: UnsafeMutableRawBufferPointer) {
        precondition(bytes.count >= Self.byteCount, "a packet header needs 44 bytes")
        guard let base = bytes.baseAddress else { return }
        storeLittleEndian(sourceCID, base, 0)
        storeLittleEndian(destinationCID, base, 8)
        storeLittleEndian(sourcePort, base, 16)
        storeLittleEndian(destinationPort, base, 20)
        storeLittleEndian(payloadByteCount, base, 24)
        storeLittleEndian(type.rawValue, base, 28)
        storeLittleEndian(operation.rawValue, base, 30)
        storeLittleEndian(flags, base, 32)
        storeLittleEndian(bufferAllocation, base, 36)
        storeLittleEndian(forwardedCount, base, 40)
    }

    /// The reset that answers this packet when no socket wants it: addresses swapped, type repeated, no credit
    /// (Linux: `virtio_transport_reset_no_sock`). Nil for a reset, which is never answered.
    public var resetWithoutSocket: PacketHeader? {
        guard operation != .reset else { return nil }
        return PacketHeader(
            sourceCID: destinationCID, destinationCID: sourceCID, sourcePort: destinationPort,
            destinationPort: sourcePort, type: type, operation: .reset)
    }
}
