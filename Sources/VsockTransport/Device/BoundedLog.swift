// SPDX-License-Identifier: Apache-2.0

import Logging
import Synchronization
import VsockSystem

/// A log for one VM, which says only so much in a second: a guest decides how many of its connections are reset and how
/// often its queues break, and must not fill the disk of its host, or keep its thread busy with writing. What is left
/// out is counted, and the next line says how much it was. Errors have a bound of their
/// own, lest warnings crowd them out; lines of the levels `trace` and `debug` are for whoever has asked for every packet,
/// and have none.
struct BoundedLog: LogHandler {
    /// More than what a VM's start, stop and restart say; as many errors besides.
    static let linesPerSecond = 20

    private var handler: any LogHandler
    private let errorRate: Rate
    private let rate: Rate

    /// Bounds what goes to `handler`; all copies share the bound. `now` is in nanoseconds.
    init(_ handler: any LogHandler, now: @escaping @Sendable () -> UInt64 = MonotonicClock.now) {
        self.handler = handler
        errorRate = Rate(now: now)
        rate = Rate(now: now)
    }

    var logLevel: Logger.Level {
        get { handler.logLevel }
        set { handler.logLevel = newValue }
    }

    var metadata: Logger.Metadata {
        get { handler.metadata }
        set { handler.metadata = newValue }
    }

    var metadataProvider: Logger.MetadataProvider? {
        get { handler.metadataProvider }
        set { handler.metadataProvider = newValue }
    }

    subscript(metadataKey key: String) -> Logger.Metadata.Value? {
        get { handler[metadataKey: key] }
        set { handler[metadataKey: key] = newValue }
    }

    func log(event: LogEvent) {
        guard event.level >= .info else { return handler.log(event: event) }
        guard let leftOut = (event.level >= .error ? errorRate : rate).next() else { return }
        var event = event
        if leftOut > 0 { event.metadata = (event.metadata ?? [:]).merging(["left-out": "\(leftOut)"]) { $1 } }
        handler.log(event: event)
    }

    /// Counts the lines of one second after another.
    private final class Rate: Sendable {
        private struct State {
            var end: UInt64 = 0
            var count = 0
            var leftOut = 0
        }

        private let now: @Sendable () -> UInt64
        private let state = Mutex(State())

        init(now: @escaping @Sendable () -> UInt64) { self.now = now }

        /// How many lines were left out before this one; nil if it is to be left out, too.
        func next() -> Int? {
            let current = now()
            return state.withLock { state in
                if current >= state.end {
                    state.end = current + 1_000_000_000
                    state.count = 0
                }
                guard state.count < BoundedLog.linesPerSecond else {
                    state.leftOut += 1
                    return nil
                }
                state.count += 1
                defer { state.leftOut = 0 }
                return state.leftOut
            }
        }
    }
}

extension Logger {
    /// This log with ``BoundedLog``'s bound, for the VM with `guestCID`.
    func bounded(guestCID: UInt32) -> Logger {
        var log = self
        log.handler = BoundedLog(handler)
        log[metadataKey: "cid"] = "\(guestCID)"
        return log
    }
}
