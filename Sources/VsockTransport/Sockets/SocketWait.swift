// SPDX-License-Identifier: Apache-2.0
//
// Waiting for a socket, by threads and by tasks. A call tries, and when it cannot go on it gets a ticket: the number of
// events of that kind that the socket has had. To wait with a ticket whose number is old returns at once, so nothing is
// missed between the attempt and the wait, and attempts hold no lock while they wait.
//
// Tasks are resumed after the lock is given back.

import Synchronization
import VsockCore
import VsockSystem

/// What a call waits for.
public enum WaitKind: Sendable {
    /// Something to receive or to accept, or the end.
    case readable
    /// Something to send with, a connection made, or the end.
    case writable
    /// Either.
    case any
}

/// Where a call stood when it could not go on.
public struct WaitTicket: Sendable {
    let kind: WaitKind
    let eventCount: UInt64
}

/// How a wait ended.
public enum WaitOutcome: Sendable {
    /// Something has happened: try again.
    case ready
    /// The deadline has come.
    case timedOut
    /// The task was cancelled.
    case cancelled
}

/// A lock together with what has to be done after it is given back.
final class SocketLock: @unchecked Sendable {
    // Unchecked: the arrays are touched by whoever has the lock.
    let monitor = Monitor()
    @exclusivity(unchecked) private var resumptions: [UnsafeContinuation<WaitOutcome, Never>] = []
    private var conditions: [Monitor.Condition] = []

    func lock() { monitor.lock() }

    func unlock() {
        guard !resumptions.isEmpty else { return monitor.unlock() }
        let resumptions = resumptions
        self.resumptions = []
        monitor.unlock()
        for continuation in resumptions { continuation.resume(returning: .ready) }
    }

    func withLock<Result>(_ body: () -> Result) -> Result {
        lock()
        defer { unlock() }
        return body()
    }

    func resumeLater(_ continuation: UnsafeContinuation<WaitOutcome, Never>) { resumptions.append(continuation) }

    func takeCondition() -> Monitor.Condition { conditions.popLast() ?? Monitor.Condition() }

    func giveBack(_ condition: Monitor.Condition) { conditions.append(condition) }
}

/// Those who wait for one socket.
final class WaitPoint: @unchecked Sendable {
    // Unchecked: everything mutable is guarded by `lock`.

    /// One thread or task that waits.
    private final class Waiter: WakeTimerClient, @unchecked Sendable {
        let point: WaitPoint
        let kind: WaitKind
        var condition: Monitor.Condition?
        var continuation: UnsafeContinuation<WaitOutcome, Never>?
        var outcome: WaitOutcome?
        var timerSlot = -1

        init(_ point: WaitPoint, _ kind: WaitKind) {
            self.point = point
            self.kind = kind
        }

        func timerFired() { point.end(self, .timedOut) }
    }

    let lock: SocketLock
    // Changed with the lock; looked at without it by a thread that is about to block.
    private let readEvents = Atomic<UInt64>(0)
    private let writeEvents = Atomic<UInt64>(0)
    private let briefSpin = BriefSpin()
    @exclusivity(unchecked) private var waiters: [Waiter] = []

    init(_ lock: SocketLock) { self.lock = lock }

    // MARK: With the lock

    /// A ticket for a call that cannot go on now.
    func ticket(_ kind: WaitKind) -> WaitTicket { WaitTicket(kind: kind, eventCount: eventCount(kind)) }

    /// Whether something has happened since a ticket was given.
    func hasEvent(since ticket: WaitTicket) -> Bool { eventCount(ticket.kind) != ticket.eventCount }

    /// Something has happened.
    func signal(_ kind: WaitKind) {
        if kind == .readable {
            readEvents.wrappingAdd(1, ordering: .releasing)
        } else {
            writeEvents.wrappingAdd(1, ordering: .releasing)
        }
        guard !waiters.isEmpty else { return }
        for waiter in waiters where waiter.kind == kind || waiter.kind == .any {
            waiter.outcome = .ready
            waiter.condition?.signal()
            if let continuation = waiter.continuation {
                waiter.continuation = nil
                lock.resumeLater(continuation)
            }
        }
        waiters.removeAll { $0.outcome != nil }
    }

    /// Something has happened that concerns everyone.
    func signalAll() {
        signal(.readable)
        signal(.writable)
    }

    private func eventCount(_ kind: WaitKind) -> UInt64 {
        switch kind {
        case .readable: readEvents.load(ordering: .acquiring)
        case .writable: writeEvents.load(ordering: .acquiring)
        case .any: readEvents.load(ordering: .acquiring) &+ writeEvents.load(ordering: .acquiring)
        }
    }

    // MARK: Without the lock

    /// Blocks the thread until something has happened since `ticket`, or the deadline has come.
    func wait(_ ticket: WaitTicket, until deadline: Instant?) -> WaitOutcome {
        if briefSpin.spin(until: { eventCount(ticket.kind) != ticket.eventCount }) { return .ready }
        lock.lock()
        defer { lock.unlock() }
        guard !hasEvent(since: ticket) else { return .ready }
        let waiter = Waiter(self, ticket.kind)
        let condition = lock.takeCondition()
        waiter.condition = condition
        waiters.append(waiter)
        defer { lock.giveBack(condition) }
        while true {
            let isInTime = condition.wait(lock.monitor, deadlineNanoseconds: deadline?.nanoseconds)
            if let outcome = waiter.outcome { return outcome }
            guard isInTime else {
                waiters.removeAll { $0 === waiter }
                return .timedOut
            }
        }
    }

    /// Suspends the task until something has happened since `ticket`, the deadline has come, or it is cancelled.
    nonisolated(nonsending) func waitSuspended(_ ticket: WaitTicket, until deadline: Instant?) async -> WaitOutcome {
        let waiter = Waiter(self, ticket.kind)
        let outcome = await withTaskCancellationHandler {
            await withUnsafeContinuation { continuation in
                add(waiter, ticket, continuation, until: deadline)
            }
        } onCancel: {
            end(waiter, .cancelled)
        }
        if waiter.timerSlot >= 0 { WakeTimer.shared.unregister(waiter.timerSlot) }
        return outcome
    }

    private func add(
        _ waiter: Waiter, _ ticket: WaitTicket, _ continuation: UnsafeContinuation<WaitOutcome, Never>,
        until deadline: Instant?
    ) {
        lock.lock()
        let outcome = waiter.outcome ?? (hasEvent(since: ticket) ? .ready : nil)
        if outcome == nil {
            waiter.continuation = continuation
            waiters.append(waiter)
            if let deadline {
                waiter.timerSlot = WakeTimer.shared.register(waiter)
                WakeTimer.shared.set(waiter.timerSlot, deadline)
            }
        }
        lock.unlock()
        if let outcome { continuation.resume(returning: outcome) }
    }

    private func end(_ waiter: Waiter, _ outcome: WaitOutcome) {
        lock.lock()
        guard waiter.outcome == nil else { return lock.unlock() }
        waiter.outcome = outcome
        waiters.removeAll { $0 === waiter }
        let continuation = waiter.continuation
        waiter.continuation = nil
        lock.unlock()
        continuation?.resume(returning: outcome)
    }
}
