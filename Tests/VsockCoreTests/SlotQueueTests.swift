// SPDX-License-Identifier: Apache-2.0
//
// The slot queue against an array.

import Testing
import VsockCore
import VsockTestSupport

@Suite("Slot queue")
struct SlotQueueTests {
    @Test("is first in, first out, at any length", arguments: 0..<20 as Range<UInt64>)
    func agreesWithModel(seed: UInt64) {
        var random = PRNG(seed: seed)
        var queue = SlotQueue()
        var model: [Int] = []
        for step in 0..<2000 {
            // Grows in the first half and shrinks in the second.
            if random.chance(percent: step < 1000 ? 60 : 40) {
                let slot = random.below(100_000)
                queue.append(slot)
                model.append(slot)
            } else {
                let slots = (queue.popFirst(), model.isEmpty ? nil : model.removeFirst())
                #expect(slots.0 == slots.1, "seed \(seed)")
            }
            #expect(queue.count == model.count && queue.isEmpty == model.isEmpty, "seed \(seed), step \(step)")
        }
        var rest: [Int] = []
        while let slot = queue.popFirst() { rest.append(slot) }
        #expect(rest == model, "seed \(seed)")
    }
}
