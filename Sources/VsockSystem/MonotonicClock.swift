// SPDX-License-Identifier: Apache-2.0
//
// The clocks of the package, read without entering the kernel. Everything is timed by CLOCK_MONOTONIC; the wall clock is
// for what people and other programs read.

import Glibc

/// Time that never goes back, since an arbitrary origin.
public enum MonotonicClock {
    /// Nanoseconds since the origin of CLOCK_MONOTONIC.
    public static func now() -> UInt64 {
        var time = timespec()
        clock_gettime(CLOCK_MONOTONIC, &time)
        return time.nanoseconds
    }
}

/// The time of day.
public enum WallClock {
    /// Nanoseconds since 1970 by CLOCK_REALTIME, which may go back when it is set.
    public static func now() -> UInt64 {
        var time = timespec()
        clock_gettime(CLOCK_REALTIME, &time)
        return time.nanoseconds
    }
}

extension timespec {
    /// Of a clock, which is not before its origin.
    var nanoseconds: UInt64 {
        UInt64(bitPattern: Int64(tv_sec)) &* 1_000_000_000 &+ UInt64(bitPattern: Int64(tv_nsec))
    }
}

/// The time that is left of a wait which signals may interrupt. nil waits for ever; 0 does not wait.
struct Deadline {
    private let end: UInt64?
    private(set) var remaining: UInt64?

    init(after nanoseconds: UInt64?) {
        remaining = nanoseconds
        guard let nanoseconds, nanoseconds > 0 else {
            end = nanoseconds
            return
        }
        let (sum, overflow) = MonotonicClock.now().addingReportingOverflow(nanoseconds)
        end = overflow ? .max : sum
    }

    var hasPassed: Bool { remaining == 0 }

    /// Rounded up, so that a wait never ends early and turns into a busy loop. -1 waits for ever.
    var remainingMilliseconds: Int32 {
        guard let remaining else { return -1 }
        let (quotient, remainder) = remaining.quotientAndRemainder(dividingBy: 1_000_000)
        return Int32(clamping: quotient + (remainder > 0 ? 1 : 0))
    }

    mutating func refresh() {
        guard let end else { return }
        let now = MonotonicClock.now()
        remaining = end > now ? end - now : 0
    }
}
