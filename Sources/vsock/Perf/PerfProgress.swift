// SPDX-License-Identifier: Apache-2.0
//
// A line on the terminal that shows how far a measurement is, by a thread of its own.

import Synchronization
import VsockSystem

/// See the top of the file. The line goes when the object is stopped.
final class PerfProgress: Sendable {
    private static let intervalNanoseconds: UInt64 = 250_000_000

    private let byteCount: Counter
    private let stopper: EventNotifier
    private let thread: WorkerThread

    private final class Counter: Sendable {
        let value = Atomic<UInt64>(0)
    }

    /// Nil where standard error is no terminal.
    init?() throws(SystemCallError) {
        guard DescriptorIO.isTerminal(2) else { return nil }
        let counter = Counter()
        let stopper = try EventNotifier()
        byteCount = counter
        self.stopper = stopper
        thread = try WorkerThread(name: "progress") {
            let start = MonotonicClock.now()
            while (try? DescriptorIO.waitUntilReady(
                stopper.rawDescriptor, for: .readable, timeoutNanoseconds: Self.intervalNanoseconds)) == []
            {
                let seconds = Double(MonotonicClock.now() - start) / 1e9
                let count = Double(counter.value.load(ordering: .relaxed))
                let rate = PerfReport.decimal(count * 8 / 1e9 / seconds, 3)
                Console.redraw("\(PerfReport.decimal(seconds, 1)) s, \(UInt64(count) >> 20) MiB, \(rate) Gbits/s")
            }
            Console.redraw("")
        }
    }

    /// Counts received bytes, from any thread.
    func add(_ count: Int) { byteCount.value.wrappingAdd(UInt64(count), ordering: .relaxed) }

    func stop() {
        stopper.signal()
        thread.join()
    }
}
