// SPDX-License-Identifier: Apache-2.0
//
// Where packets can be seen as they cross a socket table (Linux: af_vsock_tap.c and its trace events): for trace lines
// and captures.

import VirtioQueue
import VsockWire

/// Sees every packet of a transport once, with its payload: those of the peer before any check, those to the peer when
/// the carrier gets them. A loopback's packets are seen when they are sent. Calls come from any thread, one at a time,
/// and must not call the transport's sockets.
public protocol PacketTap: AnyObject, Sendable {
    /// A packet crosses; the segments are valid during the call.
    func packet(_ header: PacketHeader, _ payload: UnsafeBufferPointer<MemorySegment>, isOutgoing: Bool)
}

extension SocketTable {
    /// Hands a packet to the carrier.
    func commit(_ header: PacketHeader, _ payload: UnsafeRawBufferPointer, to carrier: any PacketCarrier) {
        if let tap {
            Self.withSegments(payload) { tap.packet(header, $0, isOutgoing: true) }
        }
        carrier.commit(header, payload)
    }

    static func withSegments(
        _ payload: UnsafeRawBufferPointer, _ body: (UnsafeBufferPointer<MemorySegment>) -> Void
    ) {
        guard let base = UnsafeMutableRawPointer(mutating: payload.baseAddress), !payload.isEmpty else {
            return body(UnsafeBufferPointer(start: nil, count: 0))
        }
        withUnsafePointer(to: MemorySegment(base: base, count: payload.count)) { segment in
            body(UnsafeBufferPointer(start: segment, count: 1))
        }
    }
}
