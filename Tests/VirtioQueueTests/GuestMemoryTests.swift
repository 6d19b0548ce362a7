// SPDX-License-Identifier: Apache-2.0

import Testing

import VirtioQueue

@Suite struct GuestMemoryTests {
    static let page: UInt64 = 4096

    /// Pages in one mapping, in reverse order so that adjacent guest pages are not adjacent here, at the given guest
    /// page numbers.
    static func memory(pages: [UInt64]) throws -> (GuestMemory, TestMapping) {
        let mapping = TestMapping(byteCount: pages.count * Int(page))
        let regions = pages.enumerated().map { index, number in
            GuestMemory.Region(
                guestAddress: number * page, byteCount: page, userAddress: 0x7f00_0000_0000 + number * page,
                base: mapping.base + (pages.count - 1 - index) * Int(page), owner: mapping)
        }
        return (try GuestMemory(regions: regions), mapping)
    }

    @Test("a range resolves only inside one region", arguments: [1, 2, 4, 5, 64, 509])
    func resolve(count: Int) throws {
        // Pages 10, 12, 14, …: a hole behind each.
        let (memory, mapping) = try Self.memory(pages: (0..<count).map { 10 + 2 * UInt64($0) })
        for index in 0..<count {
            let address = (10 + 2 * UInt64(index)) * Self.page
            let base = mapping.base + (count - 1 - index) * 4096
            #expect(memory.resolve(address, byteCount: 4096) == base)
            #expect(memory.resolve(address + 4095, byteCount: 1) == base + 4095)
            #expect(memory.resolve(address + 100, byteCount: 0) == base + 100)
            #expect(memory.resolve(address + 1, byteCount: 4096) == nil)
            #expect(memory.resolve(address, byteCount: Int.max) == nil)
            #expect(memory.resolve(address, byteCount: -1) == nil)
            #expect(memory.resolve(address + Self.page, byteCount: 1) == nil)
            #expect(memory.resolve(address - 1, byteCount: 2) == nil)
        }
        #expect(memory.resolve(0, byteCount: 1) == nil)
        #expect(memory.resolve(UInt64.max, byteCount: 1) == nil)
        #expect(memory.resolve(UInt64.max - 10, byteCount: 4096) == nil)
    }

    @Test("user addresses resolve by their own column")
    func resolveUserAddress() throws {
        let (memory, mapping) = try Self.memory(pages: [3, 1])
        #expect(memory.resolveUserAddress(0x7f00_0000_3000, byteCount: 4096) == mapping.base + 4096)
        #expect(memory.resolveUserAddress(0x7f00_0000_1ffe, byteCount: 2) == mapping.base + 4094)
        #expect(memory.resolveUserAddress(0x7f00_0000_1ffe, byteCount: 3) == nil)
        #expect(memory.resolveUserAddress(0x3000, byteCount: 1) == nil)
        #expect(memory.resolveUserAddress(0x7f00_0000_3000, byteCount: -1) == nil)
    }

    @Test("a range across adjacent regions has a slice for each")
    func slices() throws {
        let (memory, mapping) = try Self.memory(pages: [1, 2, 3, 5])
        var slices: [MemorySegment] = []
        #expect(
            memory.forEachSlice(4096 + 1000, byteCount: 4096 * 2) {
                slices.append($0)
                return true
            })
        #expect(slices.map(\.count) == [3096, 4096, 1000])
        #expect(slices.map(\.base) == [mapping.base + 3 * 4096 + 1000, mapping.base + 2 * 4096, mapping.base + 4096])
        #expect(!memory.forEachSlice(3 * 4096, byteCount: 4097) { _ in true })
        #expect(!memory.forEachSlice(4096, byteCount: 4097) { _ in false })
        #expect(!memory.forEachSlice(4096, byteCount: -1) { _ in true })
        #expect(memory.forEachSlice(0, byteCount: 0) { _ in false })
    }

    @Test("regions that are empty, too large, overlapping or too many are refused")
    func invalidRegions() throws {
        let mapping = TestMapping(byteCount: 4096)
        func region(_ address: UInt64, _ count: UInt64, user: UInt64 = 0) -> GuestMemory.Region {
            GuestMemory.Region(guestAddress: address, byteCount: count, userAddress: user, base: mapping.base)
        }
        #expect(throws: GuestMemoryError.emptyRegion(guestAddress: 16)) { try GuestMemory(regions: [region(16, 0)]) }
        #expect(throws: GuestMemoryError.addressOverflow(guestAddress: UInt64.max - 9)) {
            try GuestMemory(regions: [region(UInt64.max - 9, 10)])
        }
        #expect(throws: GuestMemoryError.addressOverflow(guestAddress: 0)) {
            try GuestMemory(regions: [region(0, 10, user: UInt64.max - 9)])
        }
        #expect(throws: GuestMemoryError.addressOverflow(guestAddress: 0)) {
            try GuestMemory(regions: [region(0, 1 << 63)])
        }
        #expect(throws: GuestMemoryError.overlap(0, 99)) {
            try GuestMemory(regions: [region(99, 10), region(0, 100)])
        }
        #expect(throws: GuestMemoryError.overlap(7, 7)) { try GuestMemory(regions: [region(7, 1), region(7, 1)]) }
        #expect(throws: GuestMemoryError.tooManyRegions(510)) {
            try GuestMemory(regions: (0..<510).map { region($0 * 4096, 4096) })
        }
        let memory = try GuestMemory(regions: [region(200, 10), region(100, 100), region(UInt64.max - 10, 10)])
        #expect(memory.regions.map(\.guestAddress) == [100, 200, UInt64.max - 10])
        #expect(try GuestMemory(regions: []).resolve(0, byteCount: 0) == nil)
    }

    @Test("a table keeps its mappings alive")
    func owner() throws {
        weak var observed: TestMapping?
        do {
            let memory: GuestMemory
            do {
                let mapping = TestMapping(byteCount: 64)
                observed = mapping
                memory = try GuestMemory(regions: [mapping.region(guestAddress: 0)])
            }
            withExtendedLifetime(memory) { #expect(observed != nil) }
        }
        #expect(observed == nil)
    }
}
