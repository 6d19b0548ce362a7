// SPDX-License-Identifier: Apache-2.0

import VsockSystem

/// Time that passes: the length of a measurement, the pace of a load. Nothing waits for something with it.
struct Pause: Sendable {
    private let never: EventNotifier

    init() throws { never = try EventNotifier() }

    /// Returns at this time of the monotonic clock, or at once when it is over.
    func end(at nanoseconds: UInt64) throws {
        let now = MonotonicClock.now()
        guard nanoseconds > now else { return }
        _ = try DescriptorIO.waitUntilReady(
            never.rawDescriptor, for: .readable, timeoutNanoseconds: nanoseconds - now)
    }
}
