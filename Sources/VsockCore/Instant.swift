// SPDX-License-Identifier: Apache-2.0
//
// Time as the core sees it: a number that its caller passes in. The core never reads a clock, so that a test or a
// simulation decides what time it is.

/// A point in monotonic time, in nanoseconds from an arbitrary start.
public struct Instant: Comparable, Hashable, Sendable {
    /// Nanoseconds from the start.
    public var nanoseconds: UInt64

    /// A point in time.
    @inlinable
    public init(nanoseconds: UInt64) { self.nanoseconds = nanoseconds }

    /// Whether `left` comes before `right`.
    @inlinable
    public static func < (left: Instant, right: Instant) -> Bool { left.nanoseconds < right.nanoseconds }

    /// The instant `nanoseconds` later; stops at the end of time.
    @inlinable
    public func advanced(byNanoseconds nanoseconds: UInt64) -> Instant {
        let (sum, overflow) = self.nanoseconds.addingReportingOverflow(nanoseconds)
        return Instant(nanoseconds: overflow ? .max : sum)
    }

    /// The earlier of two deadlines, of which either may not be set.
    @inlinable
    public static func earliest(_ left: Instant?, _ right: Instant?) -> Instant? {
        guard let left, let right else { return left ?? right }
        return min(left, right)
    }
}
