// SPDX-License-Identifier: Apache-2.0

import Testing
import VsockTestSupport

@testable import VsockTransport

@Suite("Receive buffers of a driver")
struct ReceiveSlotsTests {
    /// Buffers and those of them that the device has, in the order in which it fills them.
    private struct Ring {
        var slots: ReceiveSlots
        var posted: [Int] = []

        init(count: Int, payloadByteCount: Int) {
            slots = ReceiveSlots(count: count, payloadByteCount: payloadByteCount)
            post()
        }

        private mutating func post() { while let slot = slots.next() { posted.append(slot) } }

        /// The device returns its first buffers with so much payload; which they were.
        mutating func packets(_ count: Int, byteCount: Int) -> Set<Int> {
            var used: Set<Int> = []
            for _ in 0..<count {
                let slot = posted.removeFirst()
                used.insert(slot)
                slots.returned(slot, byteCount: byteCount)
                post()
            }
            return used
        }
    }

    @Test("all are posted for small packets, and go round")
    func small() {
        var ring = Ring(count: 256, payloadByteCount: 16384)
        #expect(ring.posted.count == 256)
        #expect(ring.packets(256, byteCount: 64) == Set(0..<256))
        #expect(ring.posted.count == 256)
    }

    @Test("a megabyte of them is posted for large packets, the same ones again and again, and all again afterwards")
    func large() {
        var ring = Ring(count: 256, payloadByteCount: 16384)
        _ = ring.packets(300, byteCount: 16384)
        #expect(ring.posted.count == 64)
        #expect(ring.packets(1000, byteCount: 16384).count == 64)
        _ = ring.packets(40, byteCount: 0)
        #expect(ring.posted.count == 256)
    }

    @Test("the credit that comes among large packets, and a large packet among small ones, changes nothing")
    func mixed() {
        var ring = Ring(count: 256, payloadByteCount: 16384)
        _ = ring.packets(300, byteCount: 16384)
        for _ in 0..<100 {
            _ = ring.packets(8, byteCount: 16384)
            _ = ring.packets(1, byteCount: 0)
            #expect(ring.posted.count == 64)
        }
        var other = Ring(count: 256, payloadByteCount: 16384)
        for _ in 0..<100 {
            _ = other.packets(2, byteCount: 10)
            _ = other.packets(1, byteCount: 16384)
            #expect(other.posted.count == 256)
        }
    }

    @Test("packets that leave most of a buffer empty are small")
    func half() {
        var ring = Ring(count: 256, payloadByteCount: 16384)
        _ = ring.packets(1000, byteCount: 8191)
        #expect(ring.posted.count == 256)
        _ = ring.packets(1000, byteCount: 8192)
        #expect(ring.posted.count == 64)
    }

    @Test("where all buffers are no megabyte, all are posted; one larger than that is posted alone")
    func sizes() {
        var pages = Ring(count: 256, payloadByteCount: 4096)
        _ = pages.packets(1000, byteCount: 4096)
        #expect(pages.posted.count == 256)
        var few = Ring(count: 16, payloadByteCount: 16384)
        _ = few.packets(1000, byteCount: 16384)
        #expect(few.posted.count == 16)
        var huge = Ring(count: 8, payloadByteCount: 2 << 20)
        _ = huge.packets(100, byteCount: 2 << 20)
        #expect(huge.posted.count == 1)
        var none = Ring(count: 8, payloadByteCount: 0)
        _ = none.packets(100, byteCount: 0)
        #expect(none.posted.count == 8)
    }

    @Test("no buffer is lost, and none is posted twice", arguments: [1, 2, 3] as [UInt64])
    func conservation(seed: UInt64) {
        var random = PRNG(seed: seed)
        var ring = Ring(count: 128, payloadByteCount: 16384)
        for _ in 0..<2000 {
            _ = ring.packets(random.within(1...60), byteCount: random.below(2) == 0 ? 20 : random.within(1...16384))
            #expect(Set(ring.posted).count == ring.posted.count, "seed \(seed)")
        }
        _ = ring.packets(128, byteCount: 0)
        #expect(Set(ring.posted) == Set(0..<128), "seed \(seed)")
    }
}
