// SPDX-License-Identifier: Apache-2.0

/// What a thread did in some time: how much it carried, mostly with whom, and what that took.
struct TrafficWindow: Equatable, Sendable {
    /// Bytes in a nanosecond from which on their cost means something: 16 KiB in a millisecond, 131 Mbit/s.
    private static let significantRate = 0.016

    /// Bytes that it has read from host programs, written to them, or exchanged with other guests.
    private(set) var byteCount = 0
    /// Processor time that it used.
    var busyNanoseconds: UInt64 = 0
    /// How long that was.
    var nanoseconds: UInt64 = 0
    // The majority vote of Boyer and Moore: `lead` is what the socket `leader` has more than the others, or less.
    private var leader: Int32 = -1
    private var lead = 0

    /// Nanoseconds of processor time that a byte took.
    var cost: Double { Double(busyNanoseconds) / Double(max(1, byteCount)) }
    /// Bytes that were carried in a nanosecond.
    var rate: Double { Double(byteCount) / Double(max(1, nanoseconds)) }

    /// Whether there were enough bytes.
    var isSignificant: Bool { rate > Self.significantRate }

    /// The one socket with which nearly all bytes were exchanged: nine tenths make it certain, less than four fifths are
    /// never enough.
    var peer: Int32? { lead > byteCount / 5 * 4 ? leader : nil }

    /// So many bytes have been exchanged through a socket.
    mutating func carried(_ count: Int, through socket: Int32) {
        byteCount += count
        if socket == leader {
            lead += count
        } else if lead >= count {
            lead -= count
        } else {
            leader = socket
            lead = count - lead
        }
    }

    /// So many bytes have gone somewhere else.
    mutating func carriedElsewhere(_ count: Int) {
        byteCount += count
        lead -= min(lead, count)
    }

    /// Half of everything: what comes after it counts for more.
    mutating func halve() {
        byteCount /= 2
        lead /= 2
        busyNanoseconds /= 2
        nanoseconds /= 2
    }

    /// Another window has come after this one.
    mutating func add(_ other: TrafficWindow) {
        byteCount += other.byteCount
        busyNanoseconds += other.busyNanoseconds
        nanoseconds += other.nanoseconds
        if leader == other.leader || lead == 0 {
            leader = other.leader
            lead += other.lead
        } else if lead >= other.lead {
            lead -= other.lead
        } else {
            leader = other.leader
            lead = other.lead - lead
        }
    }
}
