// SPDX-License-Identifier: Apache-2.0
//
// One thread's loop: descriptors that become ready, tasks that have work, deadlines. Everything that a loop drives
// belongs to its thread and needs no lock; other threads reach it through `submit`.
//
// An iteration takes all ready descriptors first; their handlers only note what happened and schedule tasks. Then
// each scheduled task runs once, so that what came together is served together: one batch, one notification.

import Synchronization
import VsockCore
import VsockSystem

/// What a loop calls when a descriptor is ready.
class PollHandler {
    func ready(_ events: PollEvents) {}
}

/// Work that several events ask for and that is done once for all of them.
class LoopTask {
    @exclusivity(unchecked) fileprivate(set) final var isScheduled = false
    fileprivate final var timerSlot = -1

    /// Does the work; true when there is more and the loop should come back after looking at its descriptors.
    func run() -> Bool { false }

    /// The deadline set with ``EventLoop/setDeadline(_:for:)`` has passed.
    func deadlinePassed() {}
}

/// Names a descriptor that a loop watches.
struct Watch: Equatable, Sendable {
    fileprivate let token: UInt64
}

/// See the top of the file.
final class EventLoop {
    /// Ready descriptors taken per system call: enough to find all of a burst, little enough to stay in the cache.
    private static let eventBatchCount = 256

    private struct Registration {
        var generation: UInt32 = 0
        var handler: PollHandler?
    }

    private let poller: Poller
    @exclusivity(unchecked) private var events: PollEventBuffer
    @exclusivity(unchecked) private var registrations: [Registration] = []
    private var freeRegistrations: [Int] = []
    @exclusivity(unchecked) private var scheduled: [LoopTask] = []
    @exclusivity(unchecked) private var running: [LoopTask] = []
    @exclusivity(unchecked) private var timers = TimerQueue()
    private var timerOwners: [LoopTask?] = []
    private let mailbox: LoopMailbox
    @exclusivity(unchecked) private var mustStop = false
    @exclusivity(unchecked) private var polling: BusyPolling
    /// Keeps the thread that runs this near the host program that its tasks exchange most with; nil leaves it to the kernel.
    @exclusivity(unchecked) var placement: ThreadPlacement?

    /// Iterations so far.
    @exclusivity(unchecked) private(set) var iterationCount = 0
    /// The time at which the current iteration began.
    @exclusivity(unchecked) private(set) var now: Instant

    /// A loop that other threads reach through `mailbox`. ``run()`` looks for events for up to `busyPollNanoseconds`
    /// before it sleeps, where that has been worth it lately.
    init(mailbox: LoopMailbox, busyPollNanoseconds: UInt64 = 0) throws(SystemCallError) {
        poller = try Poller()
        // With one processor, nothing comes while this looks for it.
        polling = BusyPolling(limit: ResourceLimits.processorCount > 1 ? busyPollNanoseconds : 0)
        now = Instant(nanoseconds: poller.now())
        events = PollEventBuffer(capacity: Self.eventBatchCount)
        self.mailbox = mailbox
        try poller.add(mailbox.notifier.rawDescriptor, [.readable], token: .max)
    }

    /// Runs until ``stop()``.
    func run() {
        while !mustStop {
            let timeout = nextTimeout()
            if polling.limit > 0, timeout != 0 { turnPolling(timeout) } else { turn(timeoutNanoseconds: timeout) }
        }
    }

    /// One iteration.
    func turn(timeoutNanoseconds: UInt64?) {
        wait(timeoutNanoseconds)
        work()
    }

    /// One iteration that looks for events, if that is worth it, before it sleeps for them.
    private func turnPolling(_ timeout: UInt64?) {
        let start = poller.now()
        let end = start + min(polling.budget, timeout ?? .max)
        var current = start
        while current < end {
            // Whoever else is to run on this processor may be the one that is waited for.
            CurrentThread.yield()
            wait(0)
            if events.count > 0 { break }
            current = poller.now()
        }
        if current >= end {
            let elapsed = current - start
            wait(timeout.map { $0 > elapsed ? $0 - elapsed : 0 })
            polling.waited(nanoseconds: poller.now() - start)
        }
        work()
    }

    private func wait(_ timeoutNanoseconds: UInt64?) {
        do throws(SystemCallError) {
            try poller.wait(into: &events, timeoutNanoseconds: timeoutNanoseconds)
        } catch {
            // epoll_wait fails only for wrong arguments; EINTR has been retried.
            preconditionFailure("\(error)")
        }
    }

    private func work() {
        iterationCount &+= 1
        now = Instant(nanoseconds: poller.now())
        placement?.pass(now: now.nanoseconds)
        dispatch()
        while let slot = timers.popExpired(now: now) { timerOwners[slot]?.deadlinePassed() }
        runTasks()
    }

    /// A task says whether what it has just done is likely to be answered at once: then ``run()`` may look for the answer
    /// before it sleeps.
    func expectAnswer(_ isLikely: Bool) { polling.expectsAnswer = isLikely }

    /// A task has exchanged so many bytes through the socket of a host program.
    func carried(_ byteCount: Int, through descriptor: Int32) { placement?.carried(byteCount, through: descriptor) }

    /// A task has carried so many bytes somewhere else.
    func carriedElsewhere(_ byteCount: Int) { placement?.carriedElsewhere(byteCount) }

    /// The earliest deadline of a task.
    var nextDeadline: Instant? { timers.earliest }

    /// Whether the next iteration has work without an event.
    var hasScheduledTasks: Bool { !scheduled.isEmpty }

    /// Ends ``run()`` after the current iteration.
    func stop() { mustStop = true }

    // MARK: Descriptors

    /// Calls `handler` when `descriptor` has one of the events.
    func watch(_ descriptor: Int32, _ events: PollEvents, _ handler: PollHandler) throws(SystemCallError) -> Watch {
        let slot = freeRegistrations.popLast() ?? registrations.count
        if slot == registrations.count { registrations.append(Registration()) }
        let token = UInt64(registrations[slot].generation) << 32 | UInt64(slot)
        do throws(SystemCallError) {
            try poller.add(descriptor, events, token: token)
        } catch {
            freeRegistrations.append(slot)
            throw error
        }
        registrations[slot].handler = handler
        return Watch(token: token)
    }

    /// Changes the events of a watched descriptor.
    func modify(_ watch: Watch, _ descriptor: Int32, _ events: PollEvents) throws(SystemCallError) {
        try poller.modify(descriptor, events, token: watch.token)
    }

    /// Watches no more. Events already taken for the descriptor are ignored.
    func unwatch(_ watch: Watch, _ descriptor: Int32) {
        let slot = Int(truncatingIfNeeded: watch.token & 0xffff_ffff)
        guard registrations[slot].handler != nil else { return }
        try? poller.remove(descriptor)
        registrations[slot].handler = nil
        registrations[slot].generation &+= 1
        freeRegistrations.append(slot)
    }

    // MARK: Tasks and deadlines

    /// Runs `task` once at the end of this iteration; never again after ``stop()``.
    func schedule(_ task: LoopTask) {
        guard !task.isScheduled, !mustStop else { return }
        task.isScheduled = true
        scheduled.append(task)
    }

    /// Sets or clears the one deadline of a task.
    func setDeadline(_ deadline: Instant?, for task: LoopTask) {
        if task.timerSlot < 0 {
            guard deadline != nil else { return }
            let free = timerOwners.firstIndex { $0 == nil }
            task.timerSlot = free ?? timerOwners.count
            if free == nil { timerOwners.append(task) } else { timerOwners[task.timerSlot] = task }
        }
        if let deadline {
            timers.set(task.timerSlot, deadline: deadline)
        } else {
            timers.cancel(task.timerSlot)
        }
    }

    /// Forgets a task that ends: it does not run any more, and the loop keeps it no longer.
    func forget(_ task: LoopTask) {
        if task.isScheduled {
            task.isScheduled = false
            scheduled.removeAll { $0 === task }
        }
        guard task.timerSlot >= 0 else { return }
        timers.cancel(task.timerSlot)
        timerOwners[task.timerSlot] = nil
        task.timerSlot = -1
    }

    // MARK: Parts of an iteration

    private func nextTimeout() -> UInt64? {
        guard scheduled.isEmpty else { return 0 }
        let limit = placement?.isBound == true ? ThreadPlacement.windowNanoseconds : nil
        guard let deadline = timers.earliest else { return limit }
        let current = poller.now()
        return min(deadline.nanoseconds > current ? deadline.nanoseconds - current : 0, limit ?? .max)
    }

    private func dispatch() {
        for index in 0..<events.count {
            let event = events[index]
            if event.token == .max {
                for job in mailbox.take() { job(self) }
                continue
            }
            let slot = Int(truncatingIfNeeded: event.token & 0xffff_ffff)
            guard slot < registrations.count,
                registrations[slot].generation == UInt32(truncatingIfNeeded: event.token >> 32)
            else { continue }
            registrations[slot].handler?.ready(event.events)
        }
    }

    private func runTasks() {
        swap(&scheduled, &running)
        for task in running {
            task.isScheduled = false
            if task.run() { schedule(task) }
        }
        running.removeAll(keepingCapacity: true)
    }
}

/// How other threads reach a loop.
final class LoopMailbox: Sendable {
    typealias Job = @Sendable (EventLoop) -> Void

    fileprivate let notifier: EventNotifier
    private let jobs = Mutex<[Job]>([])

    init() throws(SystemCallError) { notifier = try EventNotifier() }

    /// Runs `job` on the loop's thread.
    func submit(_ job: @escaping Job) {
        jobs.withLock { $0.append(job) }
        notifier.signal()
    }

    /// Runs `body` on the loop's thread and waits for its value; nil when it has not come in time. Not for that thread.
    func ask<Value: Sendable>(
        timeoutNanoseconds: UInt64, _ body: @escaping @Sendable (EventLoop) -> Value
    ) -> Value? {
        guard let answer = try? LoopAnswer<Value>() else { return nil }
        submit { loop in
            let value = body(loop)
            answer.value.withLock { $0 = value }
            answer.notifier.signal()
        }
        _ = try? DescriptorIO.waitUntilReady(
            answer.notifier.rawDescriptor, for: .readable, timeoutNanoseconds: timeoutNanoseconds)
        return answer.value.withLock { $0 }
    }

    fileprivate func take() -> [Job] {
        _ = notifier.drain()
        return jobs.withLock { jobs in
            defer { jobs = [] }
            return jobs
        }
    }
}

/// A value on its way from a loop to the thread that waits for it.
private final class LoopAnswer<Value: Sendable>: Sendable {
    let notifier: EventNotifier
    let value = Mutex<Value?>(nil)

    init() throws(SystemCallError) { notifier = try EventNotifier() }
}
