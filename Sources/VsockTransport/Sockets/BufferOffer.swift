// SPDX-License-Identifier: Apache-2.0
//
// A receiver that looks for data offers its buffer meanwhile, so that a sender can copy into it at once: one copy
// instead of two, and no ring.
//
//      none --- offer (receiver) ---> offered --- claim (sender) ---> claimed --- fill (sender) ---> filled
//       ^                                |                                                             |
//       +---- withdraw (receiver) -------+-------------------- take (receiver) -----------------------+
//
// One receiver and one sender at a time. The receiver stays until the offer is withdrawn or filled, so the buffer is
// there as long as a sender may use it.

import Synchronization
import VsockSystem

/// See the top of the file.
struct BufferOffer: ~Copyable, @unchecked Sendable {
    // Unchecked: what is behind `state` belongs to the side that the state names.

    private enum State {
        static let none = 0
        static let offered = 1
        static let claimed = 2
        static let filled = 3
    }

    /// What the sides tell each other, in one cache line: each look at the state brings the rest along.
    private struct CacheLine: ~Copyable {
        static let byteCount = 64

        let state = Atomic<Int>(State.none)
        var buffer = UnsafeMutableRawBufferPointer(start: nil, count: 0)
        var result = ReceiveResult()
    }

    private let line: UnsafeMutablePointer<CacheLine>

    init() {
        precondition(MemoryLayout<CacheLine>.size <= CacheLine.byteCount, "more than a cache line")
        // With the one that is fetched along with it.
        let pair = 2 * CacheLine.byteCount
        let memory = UnsafeMutableRawPointer.allocate(byteCount: pair, alignment: pair)
        line = memory.bindMemory(to: CacheLine.self, capacity: 1)
        line.initialize(to: CacheLine())
    }

    deinit {
        line.deinitialize(count: 1)
        line.deallocate()
    }

    /// Whether a buffer is offered.
    var isOffered: Bool { line.pointee.state.load(ordering: .relaxed) == State.offered }

    // MARK: The receiver

    func offer(_ buffer: UnsafeMutableRawBufferPointer) {
        line.pointee.buffer = buffer
        line.pointee.state.store(State.offered, ordering: .releasing)
    }

    var isFilled: Bool { line.pointee.state.load(ordering: .relaxed) == State.filled }

    /// Ends an offer: what a sender has put into the buffer, or nil.
    func end() -> ReceiveResult? {
        if line.pointee.state.compareExchange(
            expected: State.offered, desired: State.none, successOrdering: .relaxed, failureOrdering: .relaxed
        ).exchanged {
            return nil
        }
        // A sender copies: it is about to end, unless it was interrupted.
        var lookCount = 0
        while line.pointee.state.load(ordering: .acquiring) != State.filled {
            lookCount += 1
            if lookCount > 1000 { CurrentThread.yield() }
        }
        let result = line.pointee.result
        line.pointee.state.store(State.none, ordering: .relaxed)
        return result
    }

    // MARK: The sender

    /// Takes the offer if there is one, and copies `bytes` or what of them fits into the buffer. Returns how many fitted;
    /// nil without offer.
    func fill(_ bytes: UnsafeRawBufferPointer, isRecord: Bool, hasEndOfRecordMark: Bool) -> Int? {
        guard isOffered,
            line.pointee.state.compareExchange(
                expected: State.offered, desired: State.claimed, successOrdering: .acquiring, failureOrdering: .relaxed
            ).exchanged
        else { return nil }
        let buffer = line.pointee.buffer
        let count = min(buffer.count, bytes.count)
        buffer.copyMemory(from: UnsafeRawBufferPointer(rebasing: bytes[..<count]))
        line.pointee.result = ReceiveResult(
            count: count, fullLength: isRecord ? bytes.count : count, endOfRecord: isRecord && hasEndOfRecordMark,
            truncated: isRecord && count < bytes.count)
        line.pointee.state.store(State.filled, ordering: .releasing)
        return count
    }
}
