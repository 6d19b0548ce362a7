// SPDX-License-Identifier: Apache-2.0
//
// The timer queue against a plain list.

import Testing
import VsockCore
import VsockTestSupport

@Suite("Timer queue")
struct TimerQueueTests {
    @Test("agrees with a list that is searched", arguments: 0..<20 as Range<UInt64>)
    func agreesWithModel(seed: UInt64) {
        var random = PRNG(seed: seed)
        var queue = TimerQueue()
        var model: [Int: UInt64] = [:]
        var now: UInt64 = 0
        let slotCount = random.within(1...40)
        for step in 0..<1500 {
            let slot = random.below(slotCount)
            switch random.below(10) {
            case 0...5:
                // Few different deadlines, so that there are ties.
                let deadline = now + UInt64(random.below(30))
                queue.set(slot, deadline: Instant(nanoseconds: deadline))
                model[slot] = deadline
            case 6...7:
                queue.cancel(slot)
                model[slot] = nil
            default:
                now += UInt64(random.below(20))
                var previous: UInt64 = 0
                while let expired = queue.popExpired(now: Instant(nanoseconds: now)) {
                    let deadline = model.removeValue(forKey: expired) ?? .max
                    #expect(deadline <= now && deadline >= previous, "seed \(seed), step \(step)")
                    previous = deadline
                }
                #expect(model.values.allSatisfy { $0 > now }, "seed \(seed), step \(step)")
            }
            #expect(queue.earliest?.nanoseconds == model.values.min(), "seed \(seed), step \(step)")
            #expect(queue.isSet(slot) == (model[slot] != nil), "seed \(seed), step \(step)")
        }
    }

    @Test("has no timers at first, and cancelling none is harmless")
    func empty() {
        var queue = TimerQueue()
        #expect(queue.earliest == nil)
        queue.cancel(7)
        #expect(!queue.isSet(7))
        let expired = queue.popExpired(now: Instant(nanoseconds: .max))
        #expect(expired == nil)
    }
}

@Suite("Instant")
struct InstantTests {
    @Test("stops at the end of time")
    func advances() {
        let late = Instant(nanoseconds: .max - 1)
        #expect(late.advanced(byNanoseconds: 1) == Instant(nanoseconds: .max))
        #expect(late.advanced(byNanoseconds: 2) == Instant(nanoseconds: .max))
        #expect(Instant(nanoseconds: 1).advanced(byNanoseconds: 2) == Instant(nanoseconds: 3))
        #expect(Instant(nanoseconds: 1) < Instant(nanoseconds: 2))
    }
}
