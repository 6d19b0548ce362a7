// SPDX-License-Identifier: Apache-2.0
//
// The bucketed count of packets in flight against an exact one.

import Testing
import VsockTestSupport

@testable import VsockCore

@Suite("Unacknowledged packets")
struct UnacknowledgedPacketsTests {
    /// Remembers the last byte of every packet, in 64 bits.
    struct ExactModel {
        var ends: [UInt64] = []
        mutating func acknowledge(_ forwarded: UInt64) { ends.removeAll { $0 <= forwarded } }
    }

    @Test("never count fewer than are in flight, and none when all is read", arguments: 0..<20 as Range<UInt64>)
    func agreesWithModel(seed: UInt64) {
        var random = PRNG(seed: seed)
        // Near the wrap in half of the runs.
        var transmitted: UInt64 = seed % 2 == 0 ? 0 : 0xffff_fff0
        var forwarded = transmitted
        var packets = UnacknowledgedPackets()
        var model = ExactModel()
        let limit = random.pick([1, 8, 9, 64, 400])
        for step in 0..<2000 {
            if random.chance(percent: 60), packets.count < limit {
                transmitted += UInt64(random.within(1...(random.chance(percent: 10) ? 65_536 : 20)))
                packets.add(transmittedCount: UInt32(truncatingIfNeeded: transmitted), limit: limit)
                model.ends.append(transmitted)
            } else {
                let unread = Int(transmitted - forwarded)
                forwarded += UInt64(random.chance(percent: 20) ? unread : random.below(unread + 1))
                packets.acknowledge(
                    peerForwardedCount: UInt32(truncatingIfNeeded: forwarded),
                    transmittedCount: UInt32(truncatingIfNeeded: transmitted))
                model.acknowledge(forwarded)
                if forwarded == transmitted { #expect(packets.count == 0, "seed \(seed), step \(step)") }
            }
            #expect(packets.count >= model.ends.count, "seed \(seed), step \(step)")
        }
    }

    @Test("err by less than the packets of two buckets while the limit holds", arguments: [64, 400])
    func errorIsBounded(limit: Int) {
        var packets = UnacknowledgedPackets()
        for transmitted in 1...UInt32(limit) { packets.add(transmittedCount: transmitted, limit: limit) }
        #expect(packets.count == limit)
        for forwarded in 0...UInt32(limit) {
            packets.acknowledge(peerForwardedCount: forwarded, transmittedCount: UInt32(limit))
            let exact = limit - Int(forwarded)
            #expect(packets.count >= exact && packets.count < exact + limit / 4, "\(forwarded) read")
        }
    }

    @Test("are not released by a peer that claims to have read what was never sent")
    func liesReleaseNothing() {
        var packets = UnacknowledgedPackets()
        packets.add(transmittedCount: 100, limit: 400)
        for forwarded in [101, 102, 0x8000_0000, .max] as [UInt32] {
            packets.acknowledge(peerForwardedCount: forwarded, transmittedCount: 100)
            #expect(packets.count == 1)
        }
        packets.acknowledge(peerForwardedCount: 100, transmittedCount: 100)
        #expect(packets.count == 0)
    }

    @Test("are limited to what a Linux guest accepts, and to a handful at least")
    func limit() {
        #expect(UnacknowledgedPackets.limit(peerBufferAllocation: 0) == 8)
        #expect(UnacknowledgedPackets.limit(peerBufferAllocation: 4096) == 8)
        for allocation in [65_536, 262_144, 0x10_0000, .max] as [UInt32] {
            // Linux: (packets + 1) * SKB_TRUESIZE(0) <= buf_alloc.
            let limit = UnacknowledgedPackets.limit(peerBufferAllocation: allocation)
            #expect((limit + 1) * 576 <= Int(allocation))
            #expect(limit > 64)
        }
    }
}
