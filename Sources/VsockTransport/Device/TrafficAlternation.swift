// SPDX-License-Identifier: Apache-2.0

/// Whether payload goes to and fro, a batch this way and a batch that way, as requests and their answers do.
struct TrafficAlternation: Equatable, Sendable {
    enum Direction { case toHost, toGuest }

    private var last: Direction?
    private var toHost = false
    private var toGuest = false

    /// A packet of the batch at hand has payload.
    @inline(__always)
    mutating func sawPayload(_ direction: Direction) {
        switch direction {
        case .toHost: toHost = true
        case .toGuest: toGuest = true
        }
    }

    /// Ends a batch: whether it went the other way than the one before it. Nil when it had no payload, only credit and
    /// the like.
    mutating func batchEnded() -> Bool? {
        guard toHost || toGuest else { return nil }
        let direction: Direction? = toHost && toGuest ? nil : (toHost ? .toHost : .toGuest)
        defer {
            last = direction
            toHost = false
            toGuest = false
        }
        guard let direction, let last else { return false }
        return direction != last
    }
}
