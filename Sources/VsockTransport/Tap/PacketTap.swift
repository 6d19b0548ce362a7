// SPDX-License-Identifier: Apache-2.0
//
// Where packets can be seen as they cross (Linux: af_vsock_tap.c and the trace events of the virtio transport): for trace
// lines, captures, and programs of one's own. Devices show the packets of their queues, the other carriers those of
// their socket table. Where there is no tap, a packet costs a look at a nil.

import VirtioQueue
import VsockWire

/// A packet's payload as it lies in memory, in pieces.
public typealias PacketPayload = UnsafeBufferPointer<MemorySegment>

/// Sees every packet of a transport once, with its payload: those of the peer before any check, those to the peer when
/// the carrier gets them, in as many pieces as the peer will see. A loopback's packets are seen when they are sent.
///
/// Calls come from any thread, for one transport one at a time; a tap of several transports gets them at once. They must
/// not call the transport's sockets, and hold its traffic up for as long as they take.
public protocol PacketTap: AnyObject, Sendable {
    /// A packet crosses; the segments are valid during the call. They lie in memory that a peer may change meanwhile.
    func packet(_ header: PacketHeader, _ payload: PacketPayload, isOutgoing: Bool)

    /// Several packets may have crossed, and nothing does for now.
    func batchEnded()
}

extension PacketTap {
    /// For taps that keep nothing back.
    public func batchEnded() {}

    /// A packet crosses whose payload lies in one piece.
    package func packet(_ header: PacketHeader, _ payload: UnsafeRawBufferPointer, isOutgoing: Bool) {
        SocketTable.withSegments(payload) { packet(header, $0, isOutgoing: isOutgoing) }
    }
}

/// Several taps in the place of one.
public final class PacketTapGroup: PacketTap {
    private let taps: [any PacketTap]

    private init(_ taps: [any PacketTap]) { self.taps = taps }

    /// One tap for all of those; nil for none.
    public static func joining(_ taps: [(any PacketTap)?]) -> (any PacketTap)? {
        let taps = taps.compactMap(\.self)
        return taps.count < 2 ? taps.first : PacketTapGroup(taps)
    }

    public func packet(_ header: PacketHeader, _ payload: PacketPayload, isOutgoing: Bool) {
        for tap in taps { tap.packet(header, payload, isOutgoing: isOutgoing) }
    }

    public func batchEnded() {
        for tap in taps { tap.batchEnded() }
    }
}

extension SequenceHeader {
    /// Copies the marker out of a packet's payload; nil when the packet has none, or one of another length.
    public init?(_ header: PacketHeader, payload segments: PacketPayload) {
        guard header.isMarker, header.payloadByteCount == Self.byteCount else { return nil }
        let marker = withUnsafeTemporaryAllocation(byteCount: Self.byteCount, alignment: 8) { bytes in
            var offset = 0
            for segment in segments where offset < bytes.count {
                let count = min(segment.count, bytes.count - offset)
                bytes.baseAddress?.advanced(by: offset).copyMemory(from: segment.base, byteCount: count)
                offset += count
            }
            return offset == bytes.count ? SequenceHeader(UnsafeRawBufferPointer(bytes)) : nil
        }
        guard let marker else { return nil }
        self = marker
    }
}
