// SPDX-License-Identifier: Apache-2.0
//
// What a monitor asks for is work of the thread that serves other VMs, too: memory is mapped and unmapped, queues are set
// up, connections end with their guest. A monitor asks for it when its guest starts, and when it ends. One that does so
// again and again has so much of each second, and is not listened to for the rest of it:
//
//      listened to --- max-monitor-milliseconds are used up ---> waits
//         ^                                                       |
//         +---------------- the second is over -------------------+
//
// The queues are served meanwhile. No step is interrupted: one that takes longer counts for its second only.

import VsockCore
import VsockSystem

/// Who listens to a VM's monitor.
protocol MonitorListener: AnyObject {
    /// Listens to it, or not, as ``MonitorPace/isPaused`` says.
    func monitorPaceChanged()
}

/// See the top of the file. Belongs to the loop's thread.
final class MonitorPace: LoopTask {
    private let limits: LimitWatch
    private let loop: EventLoop
    private var spentNanoseconds = RatePerSecond()
    /// Whether the monitor has to wait.
    private(set) var isPaused = false
    weak var listener: (any MonitorListener)?

    init(_ limits: LimitWatch, loop: EventLoop) {
        self.limits = limits
        self.loop = loop
    }

    /// Processor time that the monitor has had in the second at hand.
    var spentMilliseconds: Int { spentNanoseconds.count(at: loop.now) / 1_000_000 }

    /// Does work that the monitor has asked for.
    func charge(_ work: () -> Void) {
        let start = CurrentThread.processorNanoseconds()
        work()
        let end = CurrentThread.processorNanoseconds()
        spentNanoseconds.add(end > start ? Int(end - start) : 0, at: loop.now)
        guard !isPaused, spentMilliseconds >= limits[.monitorMilliseconds] else { return }
        isPaused = true
        limits.reached(.monitorMilliseconds, now: loop.now)
        loop.setDeadline(spentNanoseconds.end, for: self)
        listener?.monitorPaceChanged()
    }

    override func deadlinePassed() {
        isPaused = false
        listener?.monitorPaceChanged()
    }
}
