// SPDX-License-Identifier: Apache-2.0
//
// A driver thread and a device thread on one queue, asleep whenever the queue lets them be: if a notification is lost,
// both sleep and the deadline ends the test.

import Foundation
import Testing

import VirtioQueue

@Suite(.serialized) struct ThreadStressTests {
    /// Longer than any wait on a busy machine.
    static let deadline: DispatchTimeInterval = .seconds(120)

    /// The state of one side and of the whole run. Each half is used by its thread only.
    final class Run: @unchecked Sendable {
        let queue: TestQueue
        let chainCount: Int
        var driver: DriverQueue
        var device: DeviceQueue
        let kick = DispatchSemaphore(value: 0)
        let call = DispatchSemaphore(value: 0)
        let finished = DispatchSemaphore(value: 0)
        // Written by one thread each and read after both have finished.
        var driverFailure: String?
        var deviceFailure: String?
        var kickCount = 0
        var callCount = 0

        init(size: Int, features: VirtqueueFeatures, chainCount: Int) throws {
            queue = try TestQueue(size: size)
            let tables = IndirectTables(
                guestAddress: queue.dataAddress, base: queue.pointer(queue.dataAddress), descriptorsPerTable: 4)
            driver = queue.driver(features, tables: tables)
            device = queue.device(features)
            self.chainCount = chainCount
        }

        /// Guest address of the 8 bytes that belong to `token`, for as long as the chain is in flight.
        func cell(_ token: Int) -> UInt64 {
            queue.dataAddress + (1 << 19) + UInt64(token % (2 * queue.size)) * 16
        }

        func driverSide() throws {
            var sent = 0
            var done = 0
            while done < chainCount {
                driver.disableInterrupts()
                while sent < chainCount, sent - done < queue.size {
                    let address = cell(sent)
                    let readable = GuestBuffer(guestAddress: address, byteCount: 8)
                    let writable = GuestBuffer(guestAddress: address + 8, byteCount: 8)
                    queue.pointer(address).storeBytes(of: sent, as: Int.self)
                    guard driver.add(readable: [readable], writable: [writable], token: sent) else { break }
                    sent += 1
                    driver.publish()
                    if sent % 3 == 0, driver.needsKick() { sendKick() }
                }
                if driver.needsKick() { sendKick() }
                repeat {
                    while let used = try driver.popUsed() {
                        let answer = queue.pointer(cell(used.token) + 8).load(as: Int.self)
                        guard used.token == done, used.writtenByteCount == 8, answer == ~done else {
                            driverFailure = "token \(used.token), answer \(answer), expected \(done)"
                            return
                        }
                        done += 1
                    }
                    if hasWork(sent: sent, done: done) { break }
                } while driver.enableInterrupts()
                if hasWork(sent: sent, done: done) { continue }
                guard call.wait(timeout: .now() + deadline) == .success else {
                    driverFailure = "no interrupt: sent \(sent), done \(done)"
                    return
                }
            }
        }

        /// Whether the driver can do something other than sleep: half of the queue is free, or all is done.
        func hasWork(sent: Int, done: Int) -> Bool {
            done == chainCount || sent < chainCount && sent - done < max(queue.size / 2, 1)
        }

        func sendKick() {
            kickCount += 1
            kick.signal()
        }

        func deviceSide() throws {
            var served = 0
            var list = SegmentList(capacity: 16)
            while served < chainCount {
                device.disableKicks()
                batch: while true {
                    switch try device.next(memory: queue.memory, into: &list) {
                    case .chain(let chain):
                        let value = list[chain.readable.lowerBound].base.load(as: Int.self)
                        guard value == served else {
                            deviceFailure = "chain \(value) instead of \(served)"
                            return
                        }
                        list[chain.writable.lowerBound].base.storeBytes(of: ~value, as: Int.self)
                        device.addUsed(head: chain.head, writtenByteCount: 8)
                        served += 1
                    case .full, .empty:
                        list.removeAll()
                        break batch
                    case .malformed:
                        deviceFailure = "malformed: \(String(describing: device.lastDefect))"
                        return
                    }
                }
                device.publishUsed()
                if device.needsNotification() {
                    callCount += 1
                    call.signal()
                }
                if device.enableKicks() || served == chainCount { continue }
                guard kick.wait(timeout: .now() + deadline) == .success else {
                    deviceFailure = "no kick: served \(served)"
                    return
                }
            }
        }
    }

    @Test(
        "no notification is lost between two threads",
        arguments: [1, 4, 256], [VirtqueueFeatures.all, .none, .indirect])
    func noLostWakeUp(size: Int, features: VirtqueueFeatures) throws {
        // A direct chain takes two descriptors, which a queue of one does not have.
        if size == 1, !features.indirectDescriptors { return }
        let run = try Run(size: size, features: features, chainCount: size == 1 ? 20_000 : 100_000)
        start(run.finished) {
            do { try run.driverSide() } catch { run.driverFailure = "\(error)" }
        }
        start(run.finished) {
            do { try run.deviceSide() } catch { run.deviceFailure = "\(error)" }
        }
        for _ in 0..<2 {
            let result = run.finished.wait(timeout: .now() + .seconds(120))
            try #require(result == .success, "a thread did not come to its end")
        }
        #expect(run.driverFailure == nil)
        #expect(run.deviceFailure == nil)
        #expect(run.kickCount <= run.chainCount && run.callCount <= run.chainCount)
    }

    func start(_ finished: DispatchSemaphore, _ body: @escaping @Sendable () -> Void) {
        Thread {
            body()
            finished.signal()
        }.start()
    }
}
