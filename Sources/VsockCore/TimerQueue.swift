// SPDX-License-Identifier: Apache-2.0
//
// At most one timer per slot (a connection, a device), in a binary heap that knows where each slot stands: setting, moving and
// cancelling cost O(log n), and the memory is bounded by the number of slots however often timers are set.

/// Deadlines of slots, earliest first.
public struct TimerQueue: Sendable {
    private struct Entry {
        var deadline: Instant
        var slot: Int
    }

    private var heap: [Entry] = []
    /// Position in the heap by slot, -1 for none.
    private var positions: [Int] = []

    /// A queue without timers.
    public init() {}

    /// The earliest deadline.
    public var earliest: Instant? { heap.first?.deadline }

    /// Whether a slot has a timer.
    public func isSet(_ slot: Int) -> Bool { slot < positions.count && positions[slot] >= 0 }

    /// Sets or moves the timer of a slot.
    public mutating func set(_ slot: Int, deadline: Instant) {
        while positions.count <= slot { positions.append(-1) }
        let position = positions[slot]
        if position < 0 {
            heap.append(Entry(deadline: deadline, slot: slot))
            positions[slot] = heap.count - 1
            siftUp(heap.count - 1)
        } else {
            heap[position].deadline = deadline
            siftUp(position)
            siftDown(positions[slot])
        }
    }

    /// Cancels the timer of a slot, if there is one.
    public mutating func cancel(_ slot: Int) {
        guard slot < positions.count, positions[slot] >= 0 else { return }
        let position = positions[slot]
        let last = heap.count - 1
        if position != last { exchange(position, last) }
        heap.removeLast()
        positions[slot] = -1
        if position != last {
            siftUp(position)
            siftDown(position)
        }
    }

    /// Takes out the slot whose deadline has passed first; nil when none has.
    public mutating func popExpired(now: Instant) -> Int? {
        guard let first = heap.first, first.deadline <= now else { return nil }
        cancel(first.slot)
        return first.slot
    }

    private mutating func exchange(_ left: Int, _ right: Int) {
        heap.swapAt(left, right)
        positions[heap[left].slot] = left
        positions[heap[right].slot] = right
    }

    private mutating func siftUp(_ start: Int) {
        var child = start
        while child > 0 {
            let parent = (child - 1) / 2
            guard heap[child].deadline < heap[parent].deadline else { return }
            exchange(child, parent)
            child = parent
        }
    }

    private mutating func siftDown(_ start: Int) {
        var parent = start
        while true {
            let left = 2 * parent + 1
            guard left < heap.count else { return }
            let right = left + 1
            let child = right < heap.count && heap[right].deadline < heap[left].deadline ? right : left
            guard heap[child].deadline < heap[parent].deadline else { return }
            exchange(child, parent)
            parent = child
        }
    }
}
