// SPDX-License-Identifier: Apache-2.0

import Glibc
import Synchronization
import Testing
import VsockSystem
import VsockTestSupport

@Suite("The current thread")
struct CurrentThreadTests {
    @Test("sets of processors keep their numbers, and have no room for others")
    func sets() {
        #expect(ProcessorSet([0, 63, 64, 8191, 5, 5]).numbers == [0, 5, 63, 64, 8191])
        #expect(ProcessorSet([-1, 8192, Int.max]) == ProcessorSet([]))
        #expect(ProcessorSet([3]) != ProcessorSet([4]))
    }

    @Test("a thread runs on the processor that it is bound to, and may run where it could before")
    func affinity() throws {
        let failures = Mutex<[String]>([])
        // A thread of its own: others must not inherit what is set here.
        let thread = try WorkerThread(name: "affinity") {
            do throws(SystemCallError) {
                let before = try CurrentThread.allowedProcessors()
                for number in before.numbers {
                    try CurrentThread.setAllowedProcessors(ProcessorSet([number]))
                    if CurrentThread.processor != number { failures.withLock { $0.append("not on \(number)") } }
                    if try CurrentThread.allowedProcessors().numbers != [number] {
                        failures.withLock { $0.append("not only on \(number)") }
                    }
                }
                try CurrentThread.setAllowedProcessors(before)
                if try CurrentThread.allowedProcessors() != before { failures.withLock { $0.append("not as before") } }
            } catch {
                failures.withLock { $0.append("\(error)") }
            }
            do throws(SystemCallError) {
                try CurrentThread.setAllowedProcessors(ProcessorSet([]))
                failures.withLock { $0.append("no processor at all was accepted") }
            } catch {
                if error.errno != .invalidArgument { failures.withLock { $0.append("\(error)") } }
            }
        }
        thread.join()
        #expect(failures.withLock { $0 } == [])
    }

    @Test("a thread's policy is set for itself alone, and its nice value stays")
    func policy() throws {
        let failures = Mutex<[String]>([])
        let thread = try WorkerThread(name: "policy") {
            do throws(SystemCallError) {
                // On Linux it is the thread's own.
                func niceValue() -> Int32 { getpriority(__priority_which_t(PRIO_PROCESS.rawValue), 0) }
                setpriority(__priority_which_t(PRIO_PROCESS.rawValue), 0, 5)
                for policy in [CurrentThread.SchedulingPolicy.batch, .other] {
                    try CurrentThread.setSchedulingPolicy(policy)
                    if CurrentThread.schedulingPolicy != policy { failures.withLock { $0.append("not \(policy)") } }
                    if niceValue() != 5 { failures.withLock { $0.append("another nice value") } }
                }
            } catch {
                failures.withLock { $0.append("\(error)") }
            }
        }
        thread.join()
        #expect(failures.withLock { $0 } == [])
        #expect(CurrentThread.schedulingPolicy == .other)
    }

    @Test("the clock of a thread counts its own work, not another's")
    func clock() throws {
        let outcome = Mutex<(own: UInt64, elapsed: UInt64)>((0, 0))
        let thread = try WorkerThread(name: "clock") {
            let start = CurrentThread.processorNanoseconds()
            let begin = MonotonicClock.now()
            let worker = try? WorkerThread(name: "work") {
                let own = CurrentThread.processorNanoseconds()
                let end = MonotonicClock.now() + testDeadline
                while CurrentThread.processorNanoseconds() < own + 20_000_000, MonotonicClock.now() < end {}
            }
            worker?.join()
            outcome.withLock { $0 = (CurrentThread.processorNanoseconds() - start, MonotonicClock.now() - begin) }
        }
        thread.join()
        let (own, elapsed) = outcome.withLock { $0 }
        #expect(elapsed >= 20_000_000, "the other thread has worked for so long")
        #expect(elapsed < testDeadline, "its clock has gone on")
        #expect(own < 20_000_000)
    }
}
