// SPDX-License-Identifier: Apache-2.0

/// One packet of a capture.
public struct CapturedPacket: Equatable, Sendable {
    /// When it crossed: nanoseconds since 1970.
    public var time: UInt64
    /// Bytes that the packet had, those that were not captured included.
    public var byteCount: UInt32
    /// What was captured of it, from its ``MonitorHeader`` on.
    public var bytes: [UInt8]

    /// A packet with every field given.
    public init(time: UInt64, byteCount: UInt32, bytes: [UInt8]) {
        self.time = time
        self.byteCount = byteCount
        self.bytes = bytes
    }

    /// The tap's header; nil when there are too few bytes.
    public var monitor: MonitorHeader? { bytes.withUnsafeBytes { MonitorHeader($0) } }

    /// The header of the socket device; nil for a packet of another transport, or cut too short.
    public var header: PacketHeader? {
        guard let monitor, monitor.transport == .virtio,
            Int(monitor.transportHeaderByteCount) >= PacketHeader.byteCount
        else { return nil }
        return bytes.withUnsafeBytes { PacketHeader(UnsafeRawBufferPointer(rebasing: $0[MonitorHeader.byteCount...])) }
    }

    /// What was captured of the payload.
    public var payload: ArraySlice<UInt8> {
        guard let monitor else { return [] }
        return bytes.dropFirst(MonitorHeader.byteCount + Int(monitor.transportHeaderByteCount))
    }

    /// The payload of a record marker of RFC v5; nil for any other packet.
    public var marker: SequenceHeader? {
        guard let header, header.isMarker else { return nil }
        return payload.withUnsafeBytes { SequenceHeader($0) }
    }
}

/// Why a capture cannot be read on. The text completes a sentence that begins with the file's name.
public enum CaptureError: Error, Equatable, Sendable, CustomStringConvertible {
    /// It does not begin as a capture does.
    case notCapture
    /// It is a capture in the format pcapng.
    case nextGeneration
    /// It has another version of the format.
    case version(UInt16)
    /// Its packets are not those of vsock.
    case linkType(UInt32)
    /// A packet has more bytes than any can.
    case oversized(packet: Int, byteCount: UInt32)
    /// It ends in the middle of a packet; `wholePackets` are before it.
    case truncated(wholePackets: Int)
    /// It ends in its header.
    case truncatedHeader

    /// What is wrong, and the remedy where there is one.
    public var description: String {
        switch self {
        case .notCapture: "is no packet capture (pcap)"
        case .nextGeneration: "is a capture in pcapng; convert it: editcap -F pcap OLD NEW"
        case .version(let version): "is a capture in version \(version) of pcap; only version 2 is known"
        case .linkType(let linkType):
            "has packets of link type \(linkType), not of vsock (\(CaptureFormat.linkType))"
        case .oversized(let packet, let byteCount): "is damaged: packet \(packet) has \(byteCount) bytes"
        case .truncated(let wholePackets): "ends in the middle of packet \(wholePackets + 1)"
        case .truncatedHeader: "ends in the middle of its header"
        }
    }
}
