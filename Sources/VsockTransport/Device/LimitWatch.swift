// SPDX-License-Identifier: Apache-2.0

import Logging
import VsockCore

/// Counts how often each limit of a device is reached, and says so in the log at a bounded rate. Belongs to the device's
/// loop.
final class LimitWatch {
    /// Between two lines about the same limit: whoever reaches it may do so a million times a second.
    static let logIntervalNanoseconds: UInt64 = 1_000_000_000

    let limits: DeviceLimits
    private let log: Logger
    private var counts: [DeviceLimits.Name: Int] = [:]
    private var nextLine: [DeviceLimits.Name: Instant] = [:]

    init(_ limits: DeviceLimits, log: Logger) {
        self.limits = limits
        self.log = log
    }

    subscript(name: DeviceLimits.Name) -> Int { limits[name] }

    /// How often a limit was reached.
    func count(_ name: DeviceLimits.Name) -> Int { counts[name] ?? 0 }

    /// A limit was reached, and work refused.
    func reached(_ name: DeviceLimits.Name, now: Instant) {
        counts[name, default: 0] += 1
        if let next = nextLine[name], now < next { return }
        nextLine[name] = now.advanced(byNanoseconds: Self.logIntervalNanoseconds)
        log.warning(
            "limit reached", metadata: ["limit": "\(name.rawValue)=\(limits[name])", "times": "\(count(name))"])
    }

    /// An endpoint has refused a connection.
    func reached(in endpoint: borrowing Endpoint, now: Instant) {
        let limit = endpoint.configuration.maximumConnectionCount
        guard endpoint.connectionCount >= limit else { return reached(.halfOpen, now: now) }
        reached(limit < limits[.connections] ? .queuedBytes : .connections, now: now)
    }
}
