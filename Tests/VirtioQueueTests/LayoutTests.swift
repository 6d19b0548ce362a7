// SPDX-License-Identifier: Apache-2.0

import Foundation
import Testing
import VirtioQueue

@Suite struct LayoutTests {
    #if os(Linux)
    @Test("a segment has the layout of struct iovec")
    func segmentLayout() {
        #expect(MemoryLayout<MemorySegment>.size == 16)
        #expect(MemoryLayout<MemorySegment>.stride == 16)
        #expect(MemoryLayout<MemorySegment>.offset(of: \.base) == 0)
        #expect(MemoryLayout<MemorySegment>.offset(of: \.count) == 8)
        #expect(MemoryLayout<MemorySegment>.size == MemoryLayout<iovec>.size)
        #expect(MemoryLayout<MemorySegment>.stride == MemoryLayout<iovec>.stride)
        #expect(MemoryLayout<MemorySegment>.alignment == MemoryLayout<iovec>.alignment)
        #expect(MemoryLayout<iovec>.offset(of: \.iov_base) == 0)
        #expect(MemoryLayout<iovec>.offset(of: \.iov_len) == 8)
    }
    #endif

    @Test("the parts of a queue have the sizes of the standard")
    func partSizes() {
        #expect(VirtqueueLayout.descriptorTableByteCount(size: 256) == 4096)
        #expect(VirtqueueLayout.availableRingByteCount(size: 256) == 518)
        #expect(VirtqueueLayout.usedRingByteCount(size: 256) == 2054)
        #expect(VirtqueueLayout.usedRingByteCount(size: 1) == 14)
    }

    @Test(
        "only powers of two up to 32768 are queue sizes",
        arguments: [-1, 0, 3, 100, 32767, 32769, 65536, Int.max, Int.min])
    func invalidSizes(size: Int) {
        let mapping = TestMapping(byteCount: 64)
        #expect(throws: VirtqueueError.invalidSize(size)) {
            try VirtqueueLayout(
                size: size, descriptorTable: mapping.base, availableRing: mapping.base, usedRing: mapping.base)
        }
    }

    @Test("misaligned parts are refused")
    func misalignedParts() {
        let base = TestMapping(byteCount: 64).base
        #expect(throws: VirtqueueError.misaligned(.descriptorTable)) {
            try VirtqueueLayout(size: 1, descriptorTable: base + 8, availableRing: base, usedRing: base)
        }
        #expect(throws: VirtqueueError.misaligned(.availableRing)) {
            try VirtqueueLayout(size: 1, descriptorTable: base, availableRing: base + 1, usedRing: base)
        }
        #expect(throws: VirtqueueError.misaligned(.usedRing)) {
            try VirtqueueLayout(size: 1, descriptorTable: base, availableRing: base, usedRing: base + 2)
        }
    }

    @Test("parts that leave the memory are refused, in either address space")
    func partsOutsideMemory() throws {
        let mapping = TestMapping(byteCount: 4096)
        let memory = try GuestMemory(regions: [mapping.region(guestAddress: 0x10000, userAddress: 0x7000_0000)])
        for (space, start) in [(VirtqueueLayout.AddressSpace.guest, UInt64(0x10000)), (.user, 0x7000_0000)] {
            func layout(_ descriptors: UInt64, _ available: UInt64, _ used: UInt64) throws -> VirtqueueLayout {
                try VirtqueueLayout(
                    size: 128, descriptorTable: start &+ descriptors, availableRing: start &+ available,
                    usedRing: start &+ used, space: space, memory: memory)
            }
            let good = try layout(0, 2048, 2312)
            #expect(good.descriptorTable == mapping.base)
            #expect(good.usedRing == mapping.base + 2312)
            #expect(throws: VirtqueueError.outsideMemory(.descriptorTable)) { try layout(2064, 0, 0) }
            #expect(throws: VirtqueueError.outsideMemory(.availableRing)) { try layout(0, 4096 - 260, 0) }
            #expect(throws: VirtqueueError.outsideMemory(.usedRing)) { try layout(0, 0, 4096 - 1028) }
            #expect(throws: VirtqueueError.outsideMemory(.usedRing)) { try layout(0, 0, 0 &- 16) }
        }
    }

    @Test("features are read from the negotiated bits")
    func negotiatedFeatures() {
        #expect(VirtqueueFeatures(negotiated: 1 << 32) == VirtqueueFeatures.none)
        #expect(VirtqueueFeatures(negotiated: 1 << 28) == VirtqueueFeatures.indirect)
        #expect(VirtqueueFeatures(negotiated: 1 << 28 | 1 << 29) == VirtqueueFeatures.all)
    }

    @Test("a segment list appends up to its capacity and truncates")
    func segmentList() {
        let mapping = TestMapping(byteCount: 64)
        var list = SegmentList(capacity: 2)
        #expect(list.isEmpty == true)
        #expect(list.append(MemorySegment(base: mapping.base, count: 3)) == true)
        #expect(list.append(MemorySegment(base: mapping.base + 3, count: 5)) == true)
        #expect(list.append(MemorySegment(base: mapping.base, count: 1)) == false)
        #expect(list.count == 2)
        #expect(list[1].base == mapping.base + 3)
        list[1].count = 4
        #expect(list.withUnsafeBuffer { buffer in buffer.reduce(0) { $0 + $1.count } } == 7)
        #expect(list.withUnsafeBuffer(1..<2) { buffer in buffer.map(\.count) } == [4])
        #expect(list.baseAddress[0].count == 3)
        list.truncate(to: 1)
        #expect(list.count == 1)
        list.removeAll()
        #expect(list.isEmpty == true)
    }
}
