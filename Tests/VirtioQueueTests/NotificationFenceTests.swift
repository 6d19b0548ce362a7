// SPDX-License-Identifier: Apache-2.0
//
// The race that the fence in NotificationSuppression.swift closes, as a litmus test: in each round one thread publishes
// and decides whether to notify while the other asks for a notification and looks whether it may sleep. At least one
// must see the other. A correct queue passes always; without the fence a run on two free processors fails, more surely
// when built for release.

import Foundation
import Synchronization
import Testing
import VirtioQueue

@Suite(.serialized) struct NotificationFenceTests {
    static let roundCount = 100_000

    /// Two threads in lockstep.
    final class Race: @unchecked Sendable {
        let queue: TestQueue
        var driver: DriverQueue
        var device: DeviceQueue
        let arrivals = (driver: Atomic64(), device: Atomic64())
        let finished = DispatchSemaphore(value: 0)
        // Each is written by one thread between two barriers and read by the other behind the second.
        var stop = false
        var kicked = false
        var sawAvailable = false
        var called = false
        var sawUsed = false
        /// Set by a side that ends, so that the other does not wait for it.
        let isOver = Atomic<Bool>(false)
        // Written by one thread each and read after both have finished.
        var lostKicks = 0
        var lostCalls = 0
        var driverRounds = 0
        var driverFailure: String?
        var deviceFailure: String?
        /// On a busy machine a round can take a time slice: what was reached by then is enough.
        let end = ContinuousClock.now + .seconds(10)

        init(features: VirtqueueFeatures) throws {
            queue = try TestQueue(size: 4)
            driver = queue.driver(features)
            device = queue.device(features)
        }

        /// Waits until the other side is here too.
        func meet(_ own: Atomic64, _ other: Atomic64) {
            let step = own.value.add(1, ordering: .acquiringAndReleasing).newValue
            var spins = 0
            while other.value.load(ordering: .acquiring) < step {
                spins += 1
                if spins % 2000 == 0 {
                    if isOver.load(ordering: .acquiring) { return }
                    sched_yield()
                }
            }
        }

        func driverSide() throws {
            let buffer = GuestBuffer(guestAddress: queue.dataAddress, byteCount: 1)
            for round in 0..<roundCount {
                driver.disableInterrupts()
                if !driver.add(readable: [buffer], writable: [], token: round) { driverFailure = "no room" }
                // The driver decides for both when to stop.
                if round % 256 == 0, ContinuousClock.now > end { stop = true }
                meet(arrivals.driver, arrivals.device)
                if stop { return }
                driver.publish()
                kicked = driver.needsKick()
                meet(arrivals.driver, arrivals.device)
                meet(arrivals.driver, arrivals.device)
                sawUsed = driver.enableInterrupts()
                meet(arrivals.driver, arrivals.device)
                if !called && !sawUsed { lostCalls += 1 }
                if try driver.popUsed()?.token != round { driverFailure = "round \(round) did not come back" }
                driverRounds += 1
            }
        }

        func deviceSide() throws {
            var list = SegmentList(capacity: 4)
            for _ in 0..<roundCount {
                device.disableKicks()
                meet(arrivals.device, arrivals.driver)
                if stop { return }
                sawAvailable = device.enableKicks()
                meet(arrivals.device, arrivals.driver)
                if !kicked && !sawAvailable { lostKicks += 1 }
                list.removeAll()
                if case .chain(let chain) = try device.next(memory: queue.memory, into: &list) {
                    device.addUsed(head: chain.head, writtenByteCount: 0)
                }
                meet(arrivals.device, arrivals.driver)
                device.publishUsed()
                called = device.needsNotification()
                meet(arrivals.device, arrivals.driver)
            }
        }
    }

    final class Atomic64: Sendable {
        let value = Atomic<Int>(0)
    }

    @Test("one side always sees the other", arguments: [VirtqueueFeatures.all, .none])
    func litmus(features: VirtqueueFeatures) throws {
        let race = try Race(features: features)
        Thread {
            do { try race.driverSide() } catch { race.driverFailure = "\(error)" }
            race.isOver.store(true, ordering: .releasing)
            race.finished.signal()
        }.start()
        Thread {
            do { try race.deviceSide() } catch { race.deviceFailure = "\(error)" }
            race.isOver.store(true, ordering: .releasing)
            race.finished.signal()
        }.start()
        for _ in 0..<2 {
            try #require(race.finished.wait(timeout: .now() + .seconds(120)) == .success, "a thread did not end")
        }
        #expect(race.driverFailure == nil)
        #expect(race.deviceFailure == nil)
        #expect(race.lostKicks == 0, "of \(race.driverRounds) rounds")
        #expect(race.lostCalls == 0, "of \(race.driverRounds) rounds")
    }
}
