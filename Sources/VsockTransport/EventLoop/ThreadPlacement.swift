// SPDX-License-Identifier: Apache-2.0
//
// A thread that shares a processor with its peer takes turns with it. With the usual policy the kernel lets it have the
// processor for every few messages that the peer sends, and each turn costs two switches and, mostly, an interrupt of the
// guest. So as long as it is bound its policy is SCHED_BATCH: it has its turn when the peer sleeps, because the socket is
// full, or has had its own.

import VsockSystem

/// Moves the calling thread to where ``PeerFollowing`` wants it. Belongs to that thread.
struct ThreadPlacement {
    /// Nanoseconds of a window at least: time for some reads, little enough that a peer that has moved costs little.
    static let windowNanoseconds: UInt64 = 1_000_000

    /// What is looked up at the end of a window.
    struct Reading {
        /// Processor time that the thread has used so far, in nanoseconds.
        var busyNanoseconds = CurrentThread.processorNanoseconds()
        /// Where it is.
        var processor = CurrentThread.processor
    }

    /// Where the thread may run, by whoever decides on that.
    private var allowed: ProcessorSet
    /// nil when there is only one processor to run on.
    private var following: PeerFollowing?
    /// Whether the thread's policy is SCHED_BATCH because of this.
    private var isBatch = false
    /// What has happened since the last one ended.
    private(set) var window = TrafficWindow()
    private var start: UInt64
    private var busyAtStart: UInt64

    /// For a thread that begins to work at `now`, in nanoseconds of any clock that it is told from then on. nil when the
    /// kernel does not tell where it may run.
    init?(now: UInt64, reading: Reading = Reading()) {
        guard let allowed = try? CurrentThread.allowedProcessors() else { return nil }
        self.allowed = allowed
        following = PeerFollowing(processors: allowed.numbers)
        start = now
        busyAtStart = reading.busyNanoseconds
    }

    /// Whether the thread is confined to one processor for now. It should not sleep for longer than a window then: what
    /// wakes it next may be another one's.
    var isBound: Bool { following?.bound != nil }

    /// The thread has exchanged so many bytes through the socket of a host program.
    mutating func carried(_ byteCount: Int, through descriptor: Int32) {
        window.carried(byteCount, through: descriptor)
    }

    /// The thread has carried so many bytes somewhere else.
    mutating func carriedElsewhere(_ byteCount: Int) { window.carriedElsewhere(byteCount) }

    /// To be called often: a window may have ended.
    mutating func pass(now: UInt64, reading: @autoclosure () -> Reading = Reading()) {
        guard now >= start + Self.windowNanoseconds else { return }
        let reading = reading()
        window.nanoseconds = now - start
        window.busyNanoseconds = reading.busyNanoseconds - min(busyAtStart, reading.busyNanoseconds)
        let bound = following?.bound
        if let move = following?.ended(window, processor: reading.processor, now: now) { perform(move, from: bound) }
        window = TrafficWindow()
        start = now
        busyAtStart = reading.busyNanoseconds
    }

    private mutating func perform(_ move: PeerFollowing.Move, from bound: Int?) {
        // Whoever has changed that, taskset(1) or a control group, is obeyed.
        let expected = bound.map { ProcessorSet([$0]) } ?? allowed
        guard let current = try? CurrentThread.allowedProcessors(), current == expected else { return startAnew() }
        do throws(SystemCallError) {
            switch move {
            case .bind(let processor): try CurrentThread.setAllowedProcessors(ProcessorSet([processor]))
            case .release: try CurrentThread.setAllowedProcessors(allowed)
            }
            setBatch(isBound)
        } catch {
            // A processor has gone, or the control group has changed. It has the last word on this, too.
            if (try? CurrentThread.setAllowedProcessors(allowed)) == nil {
                try? CurrentThread.setAllowedProcessors(.all)
            }
            startAnew()
        }
    }

    private mutating func setBatch(_ wanted: Bool) {
        guard wanted != isBatch else { return }
        // Here, too, whoever has changed it, chrt(1), is obeyed.
        let expected = isBatch ? CurrentThread.SchedulingPolicy.batch : .other
        isBatch =
            CurrentThread.schedulingPolicy == expected
            && (try? CurrentThread.setSchedulingPolicy(wanted ? .batch : .other)) != nil && wanted
    }

    private mutating func startAnew() {
        setBatch(false)
        guard let current = try? CurrentThread.allowedProcessors() else { return following = nil }
        allowed = current
        following = PeerFollowing(processors: current.numbers)
    }
}
