// SPDX-License-Identifier: Apache-2.0

import VsockCore

/// What adds up in one second after another: clients that have said nothing, requests that nobody has taken, time that a
/// monitor's messages have cost. Whoever causes much of it has to wait until the second is over.
struct RatePerSecond {
    private static let secondNanoseconds: UInt64 = 1_000_000_000

    private var sum = 0
    /// When the second is over.
    private(set) var end = Instant(nanoseconds: 0)

    /// What there was in the second at hand.
    func count(at now: Instant) -> Int { now < end ? sum : 0 }

    mutating func add(_ count: Int = 1, at now: Instant) {
        if now >= end {
            sum = 0
            end = now.advanced(byNanoseconds: Self.secondNanoseconds)
        }
        sum += count
    }
}
