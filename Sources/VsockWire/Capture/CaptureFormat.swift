// SPDX-License-Identifier: Apache-2.0
//
// The file format of packet captures: classic pcap (draft-ietf-opsawg-pcap), link type LINKTYPE_VSOCK. Written with
// little-endian headers and nanoseconds; ``CaptureReader`` reads every variant.

/// Writes the headers of a capture.
public enum CaptureFormat {
    /// LINKTYPE_VSOCK: each packet is a ``MonitorHeader`` and what follows it.
    public static let linkType: UInt32 = 271
    /// Bytes in front of the first record.
    public static let fileHeaderByteCount = 24
    /// Bytes in front of each packet.
    public static let recordHeaderByteCount = 16
    /// Bytes of a packet in front of its payload.
    public static let packetHeaderByteCount = MonitorHeader.byteCount + PacketHeader.byteCount
    /// Bytes of a packet at most, payload included.
    public static let maximumPacketByteCount = packetHeaderByteCount + PacketHeader.maximumPayloadByteCount

    /// Fractions of seconds in a capture.
    enum Resolution: UInt32 {
        case microseconds = 0xa1b2_c3d4
        case nanoseconds = 0xa1b2_3c4d

        var nanosecondsPerUnit: UInt64 { self == .microseconds ? 1000 : 1 }
    }

    /// The only version that is in use.
    static let majorVersion: UInt16 = 2

    /// Writes the header of a file whose packets are cut after `snapLength` bytes; `bytes` must hold 24.
    public static func writeFileHeader(snapLength: Int, to bytes: UnsafeMutableRawBufferPointer) {
        precondition(bytes.count >= fileHeaderByteCount, "a file header needs 24 bytes")
        guard let base = bytes.baseAddress else { return }
        storeLittleEndian(Resolution.nanoseconds.rawValue, base, 0)
        storeLittleEndian(majorVersion, base, 4)
        storeLittleEndian(UInt16(4), base, 6)
        // The offset and the accuracy of the clock, which everyone sets to 0.
        storeLittleEndian(UInt64(0), base, 8)
        storeLittleEndian(UInt32(clamping: snapLength), base, 16)
        storeLittleEndian(linkType, base, 20)
    }

    /// Writes the header of a record: a packet of `byteCount` bytes, of which `capturedByteCount` follow, that crossed at
    /// `time`, in nanoseconds since 1970. `bytes` must hold 16.
    public static func writeRecordHeader(
        time: UInt64, capturedByteCount: Int, byteCount: Int, to bytes: UnsafeMutableRawBufferPointer
    ) {
        precondition(bytes.count >= recordHeaderByteCount, "a record header needs 16 bytes")
        guard let base = bytes.baseAddress else { return }
        let (seconds, nanoseconds) = time.quotientAndRemainder(dividingBy: 1_000_000_000)
        storeLittleEndian(UInt32(truncatingIfNeeded: seconds), base, 0)
        storeLittleEndian(UInt32(nanoseconds), base, 4)
        storeLittleEndian(UInt32(capturedByteCount), base, 8)
        storeLittleEndian(UInt32(byteCount), base, 12)
    }
}
