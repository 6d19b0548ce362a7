// SPDX-License-Identifier: Apache-2.0
//
// Who takes the packets that come: the carrier's own thread, which the peer wakes for it, or the threads of callers with
// MSG_DONTWAIT, which look at the ring themselves when a socket has nothing for them. For a caller that does so again and
// again, to wake the other thread for each packet would cost more than the packet does, so that it is left alone:
//
//      woken --- looks in a row that have found something ---> polled
//        ^                                                       |
//        +--- a look finds nothing, or no one has looked --------+
//                       for a while
//
// The carrier's thread looks from time to time whether that goes on.

/// See the top of the file. Guarded by the table's lock.
struct PolledPackets {
    /// Looks in a row that make a caller one that goes on.
    static let startCount = 8
    /// Looks of one call, whatever comes for other sockets.
    static let roundLimit = 16
    /// How long the carrier's thread leaves the packets to callers until it looks whether there are any.
    static let lookNanoseconds: UInt64 = 200_000

    /// Whether the carrier's thread leaves the packets to callers.
    private(set) var isPolled = false
    private var foundCount = 0
    private var foundCountAtLook = 0

    /// A caller has found something.
    mutating func found() {
        foundCount &+= 1
        if foundCount >= Self.startCount { isPolled = true }
    }

    /// A caller has found nothing, or packets are no longer to be had; whether callers took them until now.
    @discardableResult
    mutating func end() -> Bool {
        defer { isPolled = false }
        foundCount = 0
        foundCountAtLook = 0
        return isPolled
    }

    /// The carrier's thread looks; whether it may go on leaving the packets to callers.
    mutating func look() -> Bool {
        guard isPolled, foundCount != foundCountAtLook else {
            end()
            return false
        }
        foundCountAtLook = foundCount
        return true
    }
}
