// SPDX-License-Identifier: Apache-2.0
//
// Deadlines of everything that has no thread of its own: connections of socket tables, and tasks that wait. One thread
// for the process, started with the first deadline; it only tells its clients, one after the other.

import VsockCore
import VsockSystem

/// What a ``WakeTimer`` tells that a deadline has come.
protocol WakeTimerClient: AnyObject, Sendable {
    /// Called on the timer's thread, without any lock. It may come late, after the deadline was moved or cancelled.
    func timerFired()
}

/// See the top of the file.
final class WakeTimer: @unchecked Sendable {
    // Unchecked: everything mutable is guarded by `monitor`.

    /// The process's timer.
    static let shared = WakeTimer()

    private struct Entry {
        weak var client: (any WakeTimerClient)?
        var isUsed = false
    }

    private let monitor = Monitor()
    private let changed = Monitor.Condition()
    private var deadlines = TimerQueue()
    private var entries: [Entry] = []
    private var freeSlots: [Int] = []
    private var thread: WorkerThread?

    private init() {}

    /// Takes a client in, without a deadline; it is not kept alive. Returns its slot.
    func register(_ client: any WakeTimerClient) -> Int {
        monitor.lock()
        defer { monitor.unlock() }
        let entry = Entry(client: client, isUsed: true)
        if let slot = freeSlots.popLast() {
            entries[slot] = entry
            return slot
        }
        entries.append(entry)
        return entries.count - 1
    }

    /// Forgets a client.
    func unregister(_ slot: Int) {
        monitor.lock()
        defer { monitor.unlock() }
        guard entries[slot].isUsed else { return }
        deadlines.cancel(slot)
        entries[slot] = Entry()
        freeSlots.append(slot)
    }

    /// Sets or moves the deadline of a client.
    func set(_ slot: Int, _ deadline: Instant) {
        monitor.lock()
        defer { monitor.unlock() }
        let isEarlier = deadlines.earliest.map { deadline < $0 } ?? true
        deadlines.set(slot, deadline: deadline)
        if thread == nil {
            // Without a thread now, the next deadline tries again.
            thread = try? WorkerThread(name: "vsock-timer") { WakeTimer.shared.run() }
        } else if isEarlier {
            changed.signal()
        }
    }

    private func run() {
        monitor.lock()
        while true {
            let now = Instant(nanoseconds: MonotonicClock.now())
            if let slot = deadlines.popExpired(now: now) {
                let client = entries[slot].client
                monitor.unlock()
                client?.timerFired()
                monitor.lock()
            } else {
                _ = changed.wait(monitor, deadlineNanoseconds: deadlines.earliest?.nanoseconds)
            }
        }
    }
}
