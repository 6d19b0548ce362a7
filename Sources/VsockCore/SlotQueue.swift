// SPDX-License-Identifier: Apache-2.0
//
// Connections that have something to say, first come first served. Each slot stands in the queue at most once (the
// caller keeps the flag), so the queue is bounded by the number of slots and cannot overflow.

/// A FIFO of slot numbers in a ring that grows to the number of slots and stays there.
public struct SlotQueue: Sendable {
    private var ring: [Int32] = []
    private var head = 0
    /// Slots in the queue.
    public private(set) var count = 0

    /// An empty queue.
    public init() {}

    /// Whether nothing is queued.
    public var isEmpty: Bool { count == 0 }

    /// Appends a slot.
    public mutating func append(_ slot: Int) {
        if count == ring.count { grow() }
        ring[(head + count) & (ring.count - 1)] = Int32(truncatingIfNeeded: slot)
        count += 1
    }

    /// Takes the first slot out.
    public mutating func popFirst() -> Int? {
        guard count > 0 else { return nil }
        let slot = ring[head]
        head = (head + 1) & (ring.count - 1)
        count -= 1
        return Int(slot)
    }

    private mutating func grow() {
        var larger = [Int32](repeating: 0, count: max(16, ring.count * 2))
        for index in 0..<count { larger[index] = ring[(head + index) & (ring.count - 1)] }
        ring = larger
        head = 0
    }
}
