// SPDX-License-Identifier: Apache-2.0
//
// How many packets the peer may not have read yet.
//
// Linux guests from 6.12.92 on account each queued packet with 576 bytes of overhead against `buf_alloc` and reset the
// connection when that exceeds it (Linux: `virtio_transport_inc_rx_pkt`). Credit does not show that limit: many small
// packets fit the buffer by their bytes and still break the connection. So the sender counts packets as well, and
// holds back when too many are out. A packet counts as read when the peer's `fwd_cnt` has passed its last byte.
//
// Packets are counted in buckets, in order; a bucket is released when all its bytes are consumed. That bounds the
// memory to a few words and errs on the safe side.

/// Counts packets in flight in buckets.
struct UnacknowledgedPackets: Sendable {
    /// Bytes of overhead that such a guest accounts for each packet (`SKB_TRUESIZE(0)`), with a margin.
    static let overheadByteCount = 640
    /// Packets that may be in flight however small the peer's buffer is.
    static let minimumLimit = 8

    private static let bucketCount = 8
    private var ends: InlineArray<8, UInt32> = .init(repeating: 0)
    private var counts: InlineArray<8, UInt32> = .init(repeating: 0)
    private var first = 0
    private var used = 0
    private(set) var count = 0

    /// Packets that may be in flight towards a peer with this buffer size.
    static func limit(peerBufferAllocation: UInt32) -> Int {
        max(minimumLimit, Int(peerBufferAllocation) / overheadByteCount)
    }

    /// Counts a packet whose last byte is the `transmittedCount`th, of at most `limit` in flight.
    mutating func add(transmittedCount: UInt32, limit: Int) {
        let last = (first + used - 1) & (Self.bucketCount - 1)
        let capacity = UInt32(truncatingIfNeeded: max(1, limit / Self.bucketCount))
        if used > 0, counts[last] < capacity || used == Self.bucketCount {
            ends[last] = transmittedCount
            counts[last] += 1
        } else {
            let next = (first + used) & (Self.bucketCount - 1)
            ends[next] = transmittedCount
            counts[next] = 1
            used += 1
        }
        count += 1
    }

    /// Releases what the peer has consumed; `transmittedCount` is the total sent so far.
    mutating func acknowledge(peerForwardedCount: UInt32, transmittedCount: UInt32) {
        let unread = transmittedCount &- peerForwardedCount
        while used > 0, transmittedCount &- ends[first] >= unread {
            count -= Int(counts[first])
            first = (first + 1) & (Self.bucketCount - 1)
            used -= 1
        }
    }
}
