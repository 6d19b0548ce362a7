// SPDX-License-Identifier: Apache-2.0
//
// Buffer space of one connection: virtio 1.3 "Socket Device / Buffer Space Management".
//
// Each side tells the other, in every packet, the size of its receive buffer (`buf_alloc`) and how many payload bytes
// it has consumed so far (`fwd_cnt`, free-running 32 bits). The sender knows what it has sent (`tx_cnt`), so
//
//      free = peer_buf_alloc - (tx_cnt - peer_fwd_cnt)
//
// Counters wrap; the difference is taken in 32 bits and the rest in 64, and clamped at 0, so that neither a shrinking
// `buf_alloc` nor a lying `fwd_cnt` ever looks like a huge credit (Linux: `virtio_transport_has_space`).

import VsockWire

/// Both directions of a connection's buffer space, in payload bytes.
public struct CreditAccount: Equatable, Sendable {
    /// Size of the local receive buffer, as the peer is told.
    public private(set) var bufferAllocation: UInt32
    /// What the size shall be: less than ``bufferAllocation`` while the buffer holds more than that.
    private var wantedAllocation: UInt32
    /// Bytes that the local side has consumed, wrapping.
    public private(set) var forwardedCount: UInt32 = 0
    /// `forwardedCount` as the peer knows it.
    public private(set) var lastForwardedCount: UInt32 = 0
    /// Bytes received and not yet consumed.
    public private(set) var receivedByteCount: UInt32 = 0
    /// Bytes sent, wrapping.
    public private(set) var transmittedCount: UInt32 = 0
    /// Size of the peer's receive buffer.
    public private(set) var peerBufferAllocation: UInt32 = 0
    /// Bytes that the peer has consumed, wrapping.
    public private(set) var peerForwardedCount: UInt32 = 0

    /// The largest buffer that the peer was told of: after it shrank, the peer may still send what fitted before.
    private var promisedAllocation: UInt32

    /// An account with nothing sent or received.
    public init(bufferAllocation: UInt32) {
        self.bufferAllocation = bufferAllocation
        wantedAllocation = bufferAllocation
        promisedAllocation = bufferAllocation
    }

    /// Takes over what a packet says of the peer's buffer.
    public mutating func update(from header: PacketHeader) {
        peerBufferAllocation = header.bufferAllocation
        peerForwardedCount = header.forwardedCount
    }

    /// Bytes that may be sent now.
    public var peerFreeByteCount: Int {
        max(0, Int(peerBufferAllocation) - Int(transmittedCount &- peerForwardedCount))
    }

    /// Bytes that were sent and that the peer has not consumed; larger than was sent when the peer lies.
    public var unacknowledgedByteCount: UInt32 { transmittedCount &- peerForwardedCount }

    /// Counts `byteCount` sent bytes; the caller has checked ``peerFreeByteCount``.
    public mutating func transmit(_ byteCount: Int) {
        transmittedCount &+= UInt32(truncatingIfNeeded: byteCount)
    }

    /// Counts received bytes. False when the peer exceeds the buffer: nothing is counted then.
    public mutating func receive(_ byteCount: UInt32) -> Bool {
        guard Int(receivedByteCount) + Int(byteCount) <= Int(promisedAllocation) else { return false }
        receivedByteCount += byteCount
        return true
    }

    /// Counts consumed bytes, at most what was received.
    public mutating func consume(_ byteCount: Int) {
        precondition(byteCount >= 0 && byteCount <= Int(receivedByteCount), "consumed more than was received")
        receivedByteCount -= UInt32(byteCount)
        forwardedCount &+= UInt32(byteCount)
        bufferAllocation = max(wantedAllocation, min(bufferAllocation, receivedByteCount))
    }

    /// Notes that a packet with the current counters goes out.
    public mutating func advertise() { lastForwardedCount = forwardedCount }

    /// Changes the size of the local buffer. It is never told below what the buffer holds, which old peers take for
    /// huge credit, but shrinks as that is consumed. False when it is as it was.
    @discardableResult
    public mutating func resize(to byteCount: UInt32) -> Bool {
        guard byteCount != wantedAllocation else { return false }
        wantedAllocation = byteCount
        bufferAllocation = max(byteCount, receivedByteCount)
        promisedAllocation = max(promisedAllocation, bufferAllocation)
        return true
    }

    /// Whether the peer should be told of the space that became free.
    ///
    /// The peer sees `buf_alloc` less what it has sent since the last advertised `fwd_cnt`. It is told when less than
    /// half is left in its view, a quarter at a time; below a quarter every byte counts, since a sender may be waiting
    /// for the rest of a record. In a tiny buffer the quarter is a record marker, which is sent whole or not at all.
    /// To be asked after every change: bytes that arrive shrink the peer's view just as consumed ones widen it.
    public var needsUpdate: Bool {
        let untold = forwardedCount &- lastForwardedCount
        guard untold > 0 else { return false }
        let visible = Int(bufferAllocation) - Int(receivedByteCount) - Int(untold)
        let quarter = max(SequenceHeader.byteCount, Int(bufferAllocation / 4))
        return visible < quarter || (visible < 2 * quarter && untold >= UInt32(quarter))
    }
}
