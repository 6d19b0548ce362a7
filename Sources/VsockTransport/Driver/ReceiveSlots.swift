// SPDX-License-Identifier: Apache-2.0
//
// Which receive buffers a driver posts. A ring goes round all that are posted, so with large packets each copy would find
// a buffer that has long left the processor's caches. Then only a few are posted, those used last first; with small
// packets all are, because a buffer holds one packet.

/// The receive buffers of a driver that the device does not have.
struct ReceiveSlots {
    /// Payload bytes from which on a packet is large, if that is half of a buffer at least.
    static let largeByteCount = 4096
    /// Bytes of all buffers posted while packets are large: two windows of a connection at least, even if they are half full.
    static let largeWindowByteCount = 1 << 20
    /// The weight of packets that decides: so many large ones more than small ones, at most.
    private static let weightLimit = 64

    private let count: Int
    private let largeByteCount: Int
    private let largeLimit: Int
    private var free: [Int]
    /// From 0, all small, to ``weightLimit``, all large.
    private var weight = 0

    /// `count` buffers for `payloadByteCount` bytes each, none of which is posted.
    init(count: Int, payloadByteCount: Int) {
        self.count = count
        largeByteCount = max(Self.largeByteCount, payloadByteCount / 2)
        largeLimit = min(count, max(1, Self.largeWindowByteCount / max(1, payloadByteCount)))
        free = Array((0..<count).reversed())
    }

    /// How many the device should have.
    private var limit: Int { weight > Self.weightLimit / 2 ? largeLimit : count }

    /// The device has returned a buffer with so many bytes of payload.
    mutating func returned(_ slot: Int, byteCount: Int) {
        weight = byteCount >= largeByteCount ? min(weight + 1, Self.weightLimit) : max(weight - 1, 0)
        free.append(slot)
    }

    /// A buffer to be posted; nil when the device has enough.
    mutating func next() -> Int? {
        count - free.count < limit ? free.popLast() : nil
    }
}
