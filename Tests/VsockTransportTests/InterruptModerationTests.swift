// SPDX-License-Identifier: Apache-2.0

import Testing
import VhostUser
import VirtioQueue
import VsockCore
import VsockSystem
import VsockTestSupport
import VsockWire

@testable import VsockTransport

@Suite("Interrupts for packets that a driver gets back")
struct InterruptModerationTests {
    private static let transmit = VsockDevice.QueueIndex.transmit

    @Test("the first comes at once, the next when the interval is over or a quarter of the queue is waiting")
    func interval() {
        var moderation = InterruptModeration()
        let interval = InterruptModeration.intervalNanoseconds
        func isDue(_ count: Int, limit: Int = 64, at nanoseconds: UInt64) -> Bool {
            moderation.isDue(for: count, limit: limit, now: Instant(nanoseconds: 1000 + nanoseconds))
        }
        let isFirstDue = isDue(1, at: 0)
        moderation.decided(true, now: Instant(nanoseconds: 1000))
        let isNextDue = isDue(63, at: 1)
        #expect(isFirstDue && !isNextDue)
        #expect(moderation.deadline == Instant(nanoseconds: 1000 + interval))
        let isManyDue = isDue(64, at: 2)
        let isSmallQueueDue = isDue(1, limit: 1, at: 2)
        let isLateDue = isDue(65, at: interval)
        #expect(isManyDue && isSmallQueueDue && isLateDue)
        // A driver that wants none is not disturbed: the next is due at once.
        moderation.decided(false, now: Instant(nanoseconds: 1000 + interval))
        #expect(moderation.deadline == nil)
        let isNextDueAtOnce = isDue(1, at: interval + 1)
        #expect(isNextDueAtOnce)
    }

    @Test("a driver that has waited for its interrupt need not wait for the next ones")
    func waiting() {
        var moderation = InterruptModeration()
        var now = Instant(nanoseconds: 1000)
        func interrupt(after nanoseconds: UInt64) {
            now = now.advanced(byNanoseconds: nanoseconds)
            moderation.decided(true, now: now)
        }
        /// How many of batches that come one after another, every ten microseconds, are told of at once.
        func promptCount(of count: Int) -> Int {
            var waitingCount = 0
            return (0..<count).count { _ in
                now = now.advanced(byNanoseconds: 10_000)
                waitingCount += 1
                guard moderation.isDue(for: waitingCount, limit: 64, now: now) else { return false }
                moderation.decided(true, now: now)
                waitingCount = 0
                return true
            }
        }
        interrupt(after: 0)
        // One in 25 as long as it sends on.
        #expect(promptCount(of: 250) == 10)
        interrupt(after: 0)
        now = now.advanced(byNanoseconds: 1)
        let isPutOff = !moderation.isDue(for: 1, limit: 64, now: now)
        now = now.advanced(byNanoseconds: InterruptModeration.intervalNanoseconds)
        let isDue = moderation.isDue(for: 1, limit: 64, now: now)
        #expect(isPutOff && isDue)
        interrupt(after: 0)
        let left = InterruptModeration.promptBatchCount - 1
        #expect(promptCount(of: left) == left)
        #expect(promptCount(of: 24) == 0)
    }

    @Test("each packet's interrupt comes, with or without another packet")
    func late() throws {
        let device = try TestDevice()
        let guest = try RingGuest(device, indirect: true)
        try guest.post([64, 64, 64, 64])
        for _ in 0..<200 {
            try guest.send(guest.packet(.creditRequest, from: 1))
            try guest.awaitCall(Self.transmit)
            let used = guest.rings[Self.transmit].popUsed()
            #expect(used != nil)
        }
        withExtendedLifetime(device) {}
    }

    /// What a monitor does to a queue that runs.
    enum Interference: CaseIterable, Sendable {
        case stop, newMemoryTable
    }

    @Test(
        "an interrupt that was put off comes when the queue is stopped, or goes on in other memory",
        arguments: Interference.allCases)
    func interrupted(_ interference: Interference) throws {
        let device = try TestDevice()
        let guest = try RingGuest(device, indirect: true)
        try guest.post([64, 64, 64, 64])
        for round in 1...50 {
            // One for which the interrupt comes at once, and another behind it, not long after.
            try guest.send(guest.packet(.creditRequest, from: 1))
            try guest.awaitCall(Self.transmit)
            try guest.send(guest.packet(.creditRequest, from: 1))
            let end = MonotonicClock.now() + testDeadline
            while guest.rings[Self.transmit].used.acquireIndex() != UInt16(2 * round) {
                try #require(MonotonicClock.now() < end, "a packet does not come back")
                CurrentThread.yield()
            }
            switch interference {
            case .stop:
                _ = try guest.frontend.perform(.getQueueBase(queue: Self.transmit), [])
                try guest.awaitCall(Self.transmit)
                try guest.start(Self.transmit, base: UInt16(2 * round))
            case .newMemoryTable:
                try guest.frontend.perform(.setMemoryTable([guest.region]), [guest.memory.rawDescriptor])
                try guest.awaitCall(Self.transmit)
            }
        }
    }

    @Test("a queue that has run before, under another device, is interrupted: that one may have put it off")
    func otherDevice() throws {
        let device = try TestDevice()
        let guest = try RingGuest(device, indirect: true)
        try guest.post([64, 64, 64, 64])
        try guest.send(guest.packet(.creditRequest, from: 1))
        try guest.awaitCall(Self.transmit)
        _ = try guest.frontend.perform(.getQueueBase(queue: Self.transmit), [])
        // The device forgets all of it, as one that has just been started.
        try guest.frontend.perform(.resetDevice, [])
        try guest.start(Self.transmit, base: 1)
        try guest.awaitCall(Self.transmit)
        withExtendedLifetime(device) {}
    }
}
