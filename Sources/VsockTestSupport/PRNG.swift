// SPDX-License-Identifier: Apache-2.0
//
// Random numbers that depend on a seed and nothing else (SplitMix64): the same seed gives the same test everywhere.

/// A seeded source of random numbers.
public struct PRNG: RandomNumberGenerator, Sendable {
    private var state: UInt64

    /// A source; equal seeds give equal sequences.
    public init(seed: UInt64) { state = seed }

    /// 64 random bits.
    public mutating func next() -> UInt64 {
        state &+= 0x9e37_79b9_7f4a_7c15
        var mixed = state
        mixed = (mixed ^ (mixed >> 30)) &* 0xbf58_476d_1ce4_e5b9
        mixed = (mixed ^ (mixed >> 27)) &* 0x94d0_49bb_1331_11eb
        return mixed ^ (mixed >> 31)
    }

    /// A number from 0 to `bound` - 1; `bound` is positive. The bias is far below what a test could see.
    public mutating func below(_ bound: Int) -> Int {
        precondition(bound > 0, "an empty range has no members")
        return Int(truncatingIfNeeded: next() % UInt64(bound))
    }

    /// A number of a closed range.
    public mutating func within(_ range: ClosedRange<Int>) -> Int {
        range.lowerBound + below(range.upperBound - range.lowerBound + 1)
    }

    /// True in `percent` of 100 cases.
    public mutating func chance(percent: Int) -> Bool { below(100) < percent }

    /// A member of a collection that is not empty.
    public mutating func pick<C: RandomAccessCollection>(_ members: C) -> C.Element where C.Index == Int {
        members[members.startIndex + below(members.count)]
    }
}
