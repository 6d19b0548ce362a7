// SPDX-License-Identifier: Apache-2.0

import ArgumentParser
import Synchronization
import VsockSystem

/// What the transports are compared with.
enum PerfBaseline: String, CaseIterable, ExpressibleByArgument {
    /// Plain Unix sockets between two processes.
    case unix
    /// Plain Unix sockets between two threads.
    case unixThreads = "unix-threads"
    /// Messages copied by one thread into the slots of a ring like a driver's.
    case memoryCopy = "memory-copy"
    /// Messages copied by one thread into the slots of a ring, and by another out of them.
    case threadCopy = "thread-copy"

    /// Entries of the ring, as many as a driver has.
    private static let slotCount = 256
    /// Entries of the ring between two threads: what they hold stays in caches, as a connection's window does.
    private static let sharedSlotCount = 4

    /// Copies messages until the limit.
    static func copyMessages(_ plan: PerfPlan) -> PerfMeter {
        let message = UnsafeMutableRawBufferPointer.allocate(byteCount: plan.messageByteCount, alignment: 4096)
        let ring = UnsafeMutableRawBufferPointer.allocate(
            byteCount: plan.messageByteCount * slotCount, alignment: 4096)
        defer {
            message.deallocate()
            ring.deallocate()
        }
        message.initializeMemory(as: UInt8.self, repeating: 0x5a)
        ring.initializeMemory(as: UInt8.self, repeating: 0)
        var meter = PerfMeter(connectionCount: 1, measuresRoundTrips: false)
        var quota = PerfQuota(plan.limit, start: meter.start)
        while quota.allowsMessage(at: MonotonicClock.now()) {
            for slot in 0..<slotCount {
                let start = slot * plan.messageByteCount
                UnsafeMutableRawBufferPointer(rebasing: ring[start..<(start + plan.messageByteCount)]).copyMemory(
                    from: UnsafeRawBufferPointer(message))
            }
            quota.take(plan.messageByteCount * slotCount)
            meter.sentByteCount += UInt64(plan.messageByteCount * slotCount)
        }
        meter.end = MonotonicClock.now()
        return meter
    }

    /// Copies messages from thread to thread until the limit.
    static func handOverMessages(_ plan: PerfPlan) throws -> PerfMeter {
        let ring = SlotRing(slotCount: sharedSlotCount, slotByteCount: plan.messageByteCount)
        let sender = try BackgroundRun(name: "sender") {
            let message = UnsafeMutableRawBufferPointer.allocate(byteCount: plan.messageByteCount, alignment: 4096)
            defer { message.deallocate() }
            message.initializeMemory(as: UInt8.self, repeating: 0x5a)
            var quota = PerfQuota(plan.limit, start: MonotonicClock.now())
            while quota.allowsMessage(of: plan.messageByteCount) {
                ring.put(UnsafeRawBufferPointer(message))
                quota.take(plan.messageByteCount)
            }
            ring.end()
        }
        let buffer = UnsafeMutableRawBufferPointer.allocate(byteCount: plan.messageByteCount, alignment: 4096)
        defer { buffer.deallocate() }
        buffer.initializeMemory(as: UInt8.self, repeating: 0)
        var meter = PerfMeter(connectionCount: 1, measuresRoundTrips: false)
        while ring.take(into: buffer) { meter.countReceived(plan.messageByteCount, 0) }
        try sender.wait()
        meter.end = MonotonicClock.now()
        return meter
    }
}

/// Slots that one thread fills and another empties; who waits for the other does not sleep.
private final class SlotRing: @unchecked Sendable {
    // Unchecked: the counts say whose turn it is at a slot.
    private let slots: UnsafeMutableRawBufferPointer
    private let slotCount: Int
    private let slotByteCount: Int
    private let filledCount = Atomic<Int>(0)
    private let emptiedCount = Atomic<Int>(0)
    private let hasEnded = Atomic<Bool>(false)

    init(slotCount: Int, slotByteCount: Int) {
        self.slotCount = slotCount
        self.slotByteCount = slotByteCount
        slots = .allocate(byteCount: slotCount * slotByteCount, alignment: 4096)
        slots.initializeMemory(as: UInt8.self, repeating: 0)
    }

    deinit { slots.deallocate() }

    private func slot(_ count: Int) -> UnsafeMutableRawBufferPointer {
        let start = count % slotCount * slotByteCount
        return UnsafeMutableRawBufferPointer(rebasing: slots[start..<(start + slotByteCount)])
    }

    func put(_ message: UnsafeRawBufferPointer) {
        let count = filledCount.load(ordering: .relaxed)
        // The other one may need this processor.
        while count - emptiedCount.load(ordering: .acquiring) == slotCount { CurrentThread.yield() }
        slot(count).copyMemory(from: message)
        filledCount.store(count + 1, ordering: .releasing)
    }

    func end() { hasEnded.store(true, ordering: .releasing) }

    /// False at the end.
    func take(into buffer: UnsafeMutableRawBufferPointer) -> Bool {
        let count = emptiedCount.load(ordering: .relaxed)
        while filledCount.load(ordering: .acquiring) == count {
            if hasEnded.load(ordering: .acquiring), filledCount.load(ordering: .acquiring) == count { return false }
            CurrentThread.yield()
        }
        buffer.copyMemory(from: UnsafeRawBufferPointer(slot(count)))
        emptiedCount.store(count + 1, ordering: .releasing)
        return true
    }
}
