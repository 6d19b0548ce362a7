// SPDX-License-Identifier: Apache-2.0
//
// Reads captures: classic pcap of either byte order, with microseconds or nanoseconds. Sans-I/O: bytes go in as they
// come, packets come out. What follows the pcap headers is little-endian in any case.

/// A capture that is being read.
public struct CaptureReader: Sendable {
    /// Largest packet that is believed: what libpcap accepts.
    public static let maximumPacketByteCount: UInt32 = 262_144

    private struct Format {
        var resolution: CaptureFormat.Resolution
        var isBigEndian: Bool
    }

    private var buffer: [UInt8] = []
    /// How much of the buffer has been read.
    private var offset = 0
    private var format: Format?

    /// Packets read so far.
    public private(set) var packetCount = 0

    /// A reader of a capture from its first byte on.
    public init() {}

    /// Takes the next bytes of the file.
    public mutating func append(_ bytes: UnsafeRawBufferPointer) {
        buffer.removeFirst(offset)
        offset = 0
        buffer += bytes
    }

    /// The next packet; nil when more bytes are needed.
    /// - Throws: ``CaptureError``, again on every further call.
    public mutating func next() throws(CaptureError) -> CapturedPacket? {
        if format == nil {
            guard buffer.count - offset >= CaptureFormat.fileHeaderByteCount else {
                // Who is wrong from the start need not come to the end of a header.
                if buffer.count - offset >= 4 { _ = try magic() }
                return nil
            }
            format = try fileHeader()
            offset += CaptureFormat.fileHeaderByteCount
        }
        guard let format, buffer.count - offset >= CaptureFormat.recordHeaderByteCount else { return nil }
        let capturedByteCount: UInt32 = load(8, format)
        guard capturedByteCount <= Self.maximumPacketByteCount else {
            throw .oversized(packet: packetCount + 1, byteCount: capturedByteCount)
        }
        let start = offset + CaptureFormat.recordHeaderByteCount
        let end = start + Int(capturedByteCount)
        guard buffer.count >= end else { return nil }
        let seconds: UInt32 = load(0, format)
        let fraction: UInt32 = load(4, format)
        let packet = CapturedPacket(
            time: UInt64(seconds) * 1_000_000_000 + UInt64(fraction) * format.resolution.nanosecondsPerUnit,
            byteCount: load(12, format), bytes: Array(buffer[start..<end]))
        offset = end
        packetCount += 1
        return packet
    }

    /// The file has ended, and ``next()`` has given all packets: throws when there is half a packet.
    public func finish() throws(CaptureError) {
        guard format != nil else { throw buffer.count - offset < 4 ? .notCapture : .truncatedHeader }
        guard offset == buffer.count else { throw .truncated(wholePackets: packetCount) }
    }

    // MARK: Headers

    private func magic() throws(CaptureError) -> Format {
        let value: UInt32 = load(0, isBigEndian: false)
        if let resolution = CaptureFormat.Resolution(rawValue: value) {
            return Format(resolution: resolution, isBigEndian: false)
        }
        if let resolution = CaptureFormat.Resolution(rawValue: value.byteSwapped) {
            return Format(resolution: resolution, isBigEndian: true)
        }
        // The type of pcapng's first block, the same in either byte order.
        throw value == 0x0a0d_0d0a ? .nextGeneration : .notCapture
    }

    private func fileHeader() throws(CaptureError) -> Format {
        let format = try magic()
        let version: UInt16 = load(4, format)
        guard version == CaptureFormat.majorVersion else { throw .version(version) }
        // The upper bits may tell of a checksum behind each packet.
        let linkType: UInt32 = load(20, format) & 0x03ff_ffff
        guard linkType == CaptureFormat.linkType else { throw .linkType(linkType) }
        return format
    }

    private func load<T: FixedWidthInteger>(_ position: Int, _ format: Format) -> T {
        load(position, isBigEndian: format.isBigEndian)
    }

    private func load<T: FixedWidthInteger>(_ position: Int, isBigEndian: Bool) -> T {
        let value = buffer.withUnsafeBytes { $0.loadUnaligned(fromByteOffset: offset + position, as: T.self) }
        return isBigEndian ? T(bigEndian: value) : T(littleEndian: value)
    }
}
