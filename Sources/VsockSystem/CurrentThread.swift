// SPDX-License-Identifier: Apache-2.0
//
// The calling thread: sched_yield(2), sched_setaffinity(2), sched_setscheduler(2), getcpu(2), its clock.

import CVsockLinux
import Glibc

/// The thread that asks.
public enum CurrentThread {
    /// Lets other threads have the processor.
    public static func yield() { sched_yield() }

    /// The processor on which it runs; it may have left by the time that this is looked at. -1 where the
    /// kernel does not tell.
    public static var processor: Int { Int(cvsock_processor()) }

    /// User and system time that it has used so far, in nanoseconds: CLOCK_THREAD_CPUTIME_ID.
    public static func processorNanoseconds() -> UInt64 {
        var time = timespec()
        clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time)
        return time.nanoseconds
    }

    /// The processors on which it may run. Throws EINVAL where the machine may have more than ``ProcessorSet`` can name.
    public static func allowedProcessors() throws(SystemCallError) -> ProcessorSet {
        var set = ProcessorSet([])
        try checked("sched_getaffinity") {
            cvsock_get_affinity(&set.words, ProcessorSet.byteCount)
        }
        return set
    }

    /// The policies of sched(7) between which a thread may go to and fro without privilege; the values of <linux/sched.h>.
    public enum SchedulingPolicy: Int32, Sendable {
        /// SCHED_OTHER: who wakes up may take the processor from who runs.
        case other = 0
        /// SCHED_BATCH: who wakes up waits until who runs sleeps, or has had its turn.
        case batch = 3
    }

    /// Its policy; nil for any other, or where the kernel does not tell.
    public static var schedulingPolicy: SchedulingPolicy? { SchedulingPolicy(rawValue: sched_getscheduler(0)) }

    /// Sets its policy; its nice value stays. Throws EPERM when that is forbidden.
    public static func setSchedulingPolicy(_ policy: SchedulingPolicy) throws(SystemCallError) {
        var parameters = sched_param()
        try checked("sched_setscheduler") { sched_setscheduler(0, policy.rawValue, &parameters) }
    }

    /// Lets it run on these processors only, from now on. Throws EINVAL when it can use none of them, EPERM when that is
    /// forbidden.
    public static func setAllowedProcessors(_ processors: ProcessorSet) throws(SystemCallError) {
        try checked("sched_setaffinity") {
            cvsock_set_affinity(processors.words, ProcessorSet.byteCount)
        }
    }
}
