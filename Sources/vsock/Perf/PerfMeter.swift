// SPDX-License-Identifier: Apache-2.0

import Histogram
import VsockSystem

/// What one thread of a side has moved. Belongs to that thread until it has ended.
struct PerfMeter {
    /// Round trips longer than this count as this: a minute.
    static let longestRoundTripNanoseconds: UInt64 = 60_000_000_000

    /// Payload received, by connection.
    private(set) var receivedByteCounts: [UInt64]
    var sentByteCount: UInt64 = 0
    /// Sends with MSG_ZEROCOPY that the kernel is done with, and those of them that it has copied.
    private(set) var zeroCopySendCount = 0
    private(set) var copiedSendCount = 0
    /// When the first byte came, or the role began if that was to send.
    private(set) var start: UInt64
    /// When the role had ended.
    var end: UInt64
    private(set) var roundTrips: Histogram<UInt64>?
    private var hasReceived = false

    private let progress: PerfProgress?

    init(connectionCount: Int, measuresRoundTrips: Bool, progress: PerfProgress? = nil) {
        self.progress = progress
        receivedByteCounts = Array(repeating: 0, count: connectionCount)
        start = MonotonicClock.now()
        end = start
        if measuresRoundTrips {
            roundTrips = Histogram(
                lowestDiscernibleValue: 1, highestTrackableValue: Self.longestRoundTripNanoseconds,
                numberOfSignificantValueDigits: .three)
        }
    }

    /// What several threads have moved together.
    init(merging meters: [PerfMeter]) {
        self.init(connectionCount: meters.first?.receivedByteCounts.count ?? 0, measuresRoundTrips: false)
        start = meters.map(\.start).min() ?? start
        end = meters.map(\.end).max() ?? end
        for meter in meters {
            sentByteCount += meter.sentByteCount
            for (index, count) in meter.receivedByteCounts.enumerated() { receivedByteCounts[index] += count }
            guard let others = meter.roundTrips else { continue }
            if roundTrips == nil { roundTrips = others } else { roundTrips?.add(others) }
        }
    }

    var receivedByteCount: UInt64 { receivedByteCounts.reduce(0, +) }

    mutating func countReceived(_ count: Int, _ connection: Int) {
        if !hasReceived {
            hasReceived = true
            if roundTrips == nil { start = MonotonicClock.now() }
        }
        receivedByteCounts[connection] += UInt64(count)
        progress?.add(count)
    }

    mutating func count(_ completion: ZeroCopyCompletion) {
        zeroCopySendCount += completion.sendCount
        if completion.wasCopied { copiedSendCount += completion.sendCount }
    }

    mutating func recordRoundTrip(_ nanoseconds: UInt64) {
        _ = roundTrips?.record(min(nanoseconds, Self.longestRoundTripNanoseconds))
    }
}

/// One side of a measurement, with its connections open.
protocol PerfSide: AnyObject, Sendable {
    /// Does what the role asks for on all connections; returns when that is done.
    func run(_ role: PerfRole) throws -> PerfMeter
}
