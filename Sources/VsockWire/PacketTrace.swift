// SPDX-License-Identifier: Apache-2.0
//
// Packets as lines of text, in the format of Linux's trace events virtio_transport_alloc_pkt and
// virtio_transport_recv_pkt (include/trace/events/vsock_virtio_transport_common.h), with the two fields that the RFC v5
// series adds:
//
//      3:65536 -> 2:1234 len=8 type=SEQPACKET op=SEQ_BEGIN flags=0x0 buf_alloc=262144 fwd_cnt=0 msg_len=5 msg_cnt=0
//
// Linux traces a packet that it sends before the credit fields are filled in, and so without them. Here it is traced
// when it leaves, with all fields, and a line looks the same in both directions and in a capture.

extension PacketHeader: CustomStringConvertible {
    /// The trace line without the fields of a marker.
    public var description: String {
        "\(sourceCID):\(sourcePort) -> \(destinationCID):\(destinationPort) len=\(payloadByteCount)"
            + " type=\(type.traceName) op=\(operation.traceName) flags=0x\(String(flags, radix: 16))"
            + " buf_alloc=\(bufferAllocation) fwd_cnt=\(forwardedCount)"
    }

    /// The trace line of a packet. `marker` is the payload of a SEQ_BEGIN or SEQ_END; without it `msg_len` and `msg_cnt`
    /// are 0, as for any other packet.
    public func traceLine(marker: SequenceHeader? = nil) -> String {
        "\(self) msg_len=\(marker?.messageByteCount ?? 0) msg_cnt=\(marker?.messageCount ?? 0)"
    }

    /// Whether the payload is a ``SequenceHeader``.
    @inlinable public var isMarker: Bool { operation == .sequenceBegin || operation == .sequenceEnd }
}

extension SocketType {
    /// As `__print_symbolic` has it: a value without a name is a hexadecimal number.
    fileprivate var traceName: String { isKnown ? description : "0x\(String(rawValue, radix: 16))" }
}

extension Operation {
    fileprivate var traceName: String {
        rawValue <= Operation.sequenceEnd.rawValue ? description : "0x\(String(rawValue, radix: 16))"
    }
}

/// Makes trace lines of packets that cross one place, in their order, and names the flags behind them:
/// `… msg_len=0 msg_cnt=0 (SEQ_EOM|SEQ_EOR)`. Bit 0 of an RW packet has two meanings; which one it is follows from
/// the packets before: between SEQ_BEGIN and SEQ_END it is that of RFC v5.
public struct PacketTracer: Sendable {
    /// Records of RFC v5 that may be open at once; of more, the flags get the names of the standard.
    static let maximumOpenRecordCount = 65_536

    /// One direction of a connection.
    private struct Flow: Hashable {
        var sourceCID: UInt64
        var destinationCID: UInt64
        var sourcePort: UInt32
        var destinationPort: UInt32

        init(_ header: PacketHeader) {
            sourceCID = header.sourceCID
            destinationCID = header.destinationCID
            sourcePort = header.sourcePort
            destinationPort = header.destinationPort
        }

        var reversed: Flow {
            var flow = self
            swap(&flow.sourceCID, &flow.destinationCID)
            swap(&flow.sourcePort, &flow.destinationPort)
            return flow
        }
    }

    private var openRecords: Set<Flow> = []

    /// A tracer that has seen nothing.
    public init() {}

    /// The line of the next packet; see ``PacketHeader/traceLine(marker:)``.
    public mutating func line(_ header: PacketHeader, marker: SequenceHeader? = nil) -> String {
        let names = flagNames(header)
        return header.traceLine(marker: marker) + (names.isEmpty ? "" : " (\(names.joined(separator: "|")))")
    }

    private mutating func flagNames(_ header: PacketHeader) -> [String] {
        switch header.operation {
        case .request, .reset:
            // A connection begins or ends; most have no record open, and are not looked for.
            if !openRecords.isEmpty {
                let flow = Flow(header)
                openRecords.remove(flow)
                openRecords.remove(flow.reversed)
            }
            return []
        case .sequenceBegin:
            if openRecords.count < Self.maximumOpenRecordCount { openRecords.insert(Flow(header)) }
            return []
        case .sequenceEnd:
            openRecords.remove(Flow(header))
            return []
        case .shutdown:
            return names(
                header.flags, [(ShutdownFlags.receive.rawValue, "RCV"), (ShutdownFlags.send.rawValue, "SEND")])
        case .readWrite where header.type == .seqpacket && openRecords.contains(Flow(header)):
            return names(header.flags, [(SequenceFlags.rfcV5EndOfRecord.rawValue, "RW_EOR")])
        case .readWrite where header.type == .seqpacket:
            return names(
                header.flags,
                [(SequenceFlags.endOfMessage.rawValue, "SEQ_EOM"), (SequenceFlags.endOfRecord.rawValue, "SEQ_EOR")])
        default:
            return []
        }
    }

    private func names(_ flags: UInt32, _ table: [(UInt32, String)]) -> [String] {
        table.filter { flags & $0.0 != 0 }.map(\.1)
    }
}
