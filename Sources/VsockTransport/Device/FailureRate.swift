// SPDX-License-Identifier: Apache-2.0

import VsockCore

/// What has failed in one second after another: clients that have said nothing, or requests that nobody has taken. Each
/// costs threads of the daemon as much as some packets, so that who causes many of them has to wait.
struct FailureRate {
    private static let secondNanoseconds: UInt64 = 1_000_000_000

    private var count = 0
    /// When the second is over.
    private(set) var end = Instant(nanoseconds: 0)

    /// Failures in the second at hand.
    func count(at now: Instant) -> Int { now < end ? count : 0 }

    mutating func add(at now: Instant) {
        if now >= end {
            count = 0
            end = now.advanced(byNanoseconds: Self.secondNanoseconds)
        }
        count += 1
    }
}
