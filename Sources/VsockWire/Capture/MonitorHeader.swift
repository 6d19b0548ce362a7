// SPDX-License-Identifier: Apache-2.0
//
// `struct af_vsockmon_hdr` of Linux's packet tap (include/uapi/linux/vsockmon.h), which is what each packet of a capture
// with LINKTYPE_VSOCK begins with. Little-endian, packed, 32 bytes; the transport's header and the payload follow:
//
//      0        8        16      20      24   26          28    30         32
//      | src_cid | dst_cid | sport | dport | op | transport | len | reserved | transport header | payload |

/// What a packet is, whatever the transport.
public struct MonitorHeader: Equatable, Sendable {
    /// Bytes on the wire.
    public static let byteCount = 32

    /// What a packet does, in the words of the tap (`enum af_vsockmon_op`).
    public struct Operation: RawRepresentable, Hashable, Sendable {
        /// The value on the wire.
        public let rawValue: UInt16

        /// Any value, known or not.
        public init(rawValue: UInt16) { self.rawValue = rawValue }

        /// An operation that the tap does not know (`AF_VSOCK_OP_UNKNOWN`).
        public static let unknown = Operation(rawValue: 0)
        /// A connection begins (`AF_VSOCK_OP_CONNECT`).
        public static let connect = Operation(rawValue: 1)
        /// A connection ends, perhaps in one direction (`AF_VSOCK_OP_DISCONNECT`).
        public static let disconnect = Operation(rawValue: 2)
        /// The transport's own (`AF_VSOCK_OP_CONTROL`).
        public static let control = Operation(rawValue: 3)
        /// Bytes of the application (`AF_VSOCK_OP_PAYLOAD`).
        public static let payload = Operation(rawValue: 4)
    }

    /// What header follows (`enum af_vsockmon_transport`).
    public struct Transport: RawRepresentable, Hashable, Sendable {
        /// The value on the wire.
        public let rawValue: UInt16

        /// Any value, known or not.
        public init(rawValue: UInt16) { self.rawValue = rawValue }

        /// A ``PacketHeader`` (`AF_VSOCK_TRANSPORT_VIRTIO`).
        public static let virtio = Transport(rawValue: 2)
    }

    /// Context ID of the sender.
    public var sourceCID: UInt64
    /// Context ID of the receiver.
    public var destinationCID: UInt64
    /// Port of the sender.
    public var sourcePort: UInt32
    /// Port of the receiver.
    public var destinationPort: UInt32
    /// What the packet does.
    public var operation: Operation
    /// What header follows.
    public var transport: Transport
    /// Bytes of the header that follows.
    public var transportHeaderByteCount: UInt16

    /// That of a packet of a socket device (Linux: `virtio_transport_build_skb`, with the operations of RFC v5).
    public init(_ header: PacketHeader) {
        sourceCID = header.sourceCID
        destinationCID = header.destinationCID
        sourcePort = header.sourcePort
        destinationPort = header.destinationPort
        operation = Operation(header.operation)
        transport = .virtio
        transportHeaderByteCount = UInt16(PacketHeader.byteCount)
    }

    /// Reads the first 32 bytes; nil when there are fewer.
    public init?(_ bytes: UnsafeRawBufferPointer) {
        guard bytes.count >= Self.byteCount, let base = bytes.baseAddress else { return nil }
        sourceCID = loadLittleEndian(base, 0)
        destinationCID = loadLittleEndian(base, 8)
        sourcePort = loadLittleEndian(base, 16)
        destinationPort = loadLittleEndian(base, 20)
        operation = Operation(rawValue: loadLittleEndian(base, 24))
        transport = Transport(rawValue: loadLittleEndian(base, 26))
        transportHeaderByteCount = loadLittleEndian(base, 28)
    }

    /// Writes the 32 bytes; `bytes` must hold at least that many.
    public func write(to bytes: UnsafeMutableRawBufferPointer) {
        precondition(bytes.count >= Self.byteCount, "a monitor header needs 32 bytes")
        guard let base = bytes.baseAddress else { return }
        storeLittleEndian(sourceCID, base, 0)
        storeLittleEndian(destinationCID, base, 8)
        storeLittleEndian(sourcePort, base, 16)
        storeLittleEndian(destinationPort, base, 20)
        storeLittleEndian(operation.rawValue, base, 24)
        storeLittleEndian(transport.rawValue, base, 26)
        storeLittleEndian(transportHeaderByteCount, base, 28)
        storeLittleEndian(UInt16(0), base, 30)
    }
}

extension MonitorHeader.Operation {
    /// That of a packet of a socket device. Record markers are the transport's own, although they have a payload.
    public init(_ operation: VsockWire.Operation) {
        switch operation {
        case .request, .response: self = .connect
        case .reset, .shutdown: self = .disconnect
        case .creditUpdate, .creditRequest, .sequenceBegin, .sequenceEnd: self = .control
        case .readWrite: self = .payload
        default: self = .unknown
        }
    }
}

extension MonitorHeader.Operation: CustomStringConvertible {
    /// The name, as in Linux's header.
    public var description: String {
        switch self {
        case .unknown: "UNKNOWN"
        case .connect: "CONNECT"
        case .disconnect: "DISCONNECT"
        case .control: "CONTROL"
        case .payload: "PAYLOAD"
        default: "0x\(String(rawValue, radix: 16))"
        }
    }
}

extension MonitorHeader: CustomStringConvertible {
    /// A line for a packet of which no more is known.
    public var description: String {
        "\(sourceCID):\(sourcePort) -> \(destinationCID):\(destinationPort) op=\(operation)"
            + " transport=\(transport.rawValue)"
    }
}
