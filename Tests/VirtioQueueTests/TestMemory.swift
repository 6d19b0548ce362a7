// SPDX-License-Identifier: Apache-2.0
//
// Guest memory for tests, a queue with both halves in it, raw access to descriptors for hostile drivers, and a seeded
// generator.

import Testing

import VirtioQueue

/// Zeroed, aligned memory that lives as long as this object.
final class TestMapping: @unchecked Sendable {
    let base: UnsafeMutableRawPointer
    let byteCount: Int

    init(byteCount: Int) {
        base = .allocate(byteCount: byteCount, alignment: 4096)
        base.initializeMemory(as: UInt8.self, repeating: 0, count: byteCount)
        self.byteCount = byteCount
    }

    deinit {
        base.deallocate()
    }

    func region(guestAddress: UInt64, userAddress: UInt64 = 0) -> GuestMemory.Region {
        GuestMemory.Region(
            guestAddress: guestAddress, byteCount: UInt64(byteCount), userAddress: userAddress, base: base, owner: self)
    }
}

/// One region of guest memory with a queue at its start and free space behind it.
struct TestQueue {
    /// Where the region starts: guest memory need not start at zero.
    static let guestAddress: UInt64 = 0x4000_0000
    static let dataByteCount = 1 << 20

    let size: Int
    let memory: GuestMemory
    let layout: VirtqueueLayout
    let base: UnsafeMutableRawPointer
    /// Guest address of the free space, `dataByteCount` bytes.
    let dataAddress: UInt64

    init(size: Int) throws {
        func aligned(_ value: Int) -> Int { (value + 15) & ~15 }
        let availableOffset = aligned(VirtqueueLayout.descriptorTableByteCount(size: size))
        let usedOffset = aligned(availableOffset + VirtqueueLayout.availableRingByteCount(size: size))
        let dataOffset = (usedOffset + VirtqueueLayout.usedRingByteCount(size: size) + 4095) & ~4095
        let mapping = TestMapping(byteCount: dataOffset + Self.dataByteCount)
        self.size = size
        memory = try GuestMemory(regions: [mapping.region(guestAddress: Self.guestAddress)])
        layout = try VirtqueueLayout(
            size: size,
            descriptorTable: Self.guestAddress,
            availableRing: Self.guestAddress + UInt64(availableOffset),
            usedRing: Self.guestAddress + UInt64(usedOffset),
            space: .guest,
            memory: memory)
        base = mapping.base
        dataAddress = Self.guestAddress + UInt64(dataOffset)
    }

    func pointer(_ guestAddress: UInt64) -> UnsafeMutableRawPointer {
        base + Int(guestAddress - Self.guestAddress)
    }

    func device(_ features: VirtqueueFeatures = .all, startIndex: UInt16 = 0) -> DeviceQueue {
        DeviceQueue(layout: layout, features: features, owner: memory, startIndex: startIndex)
    }

    func driver(_ features: VirtqueueFeatures = .all, tables: IndirectTables? = nil) -> DriverQueue {
        DriverQueue(layout: layout, features: features, indirectTables: tables, owner: memory)
    }

    // MARK: what a hostile driver does

    func write(_ descriptor: Descriptor, at index: Int) {
        descriptor.store(to: layout.descriptorTable + index * Descriptor.byteCount)
    }

    func write(_ descriptor: Descriptor, at index: Int, ofTable guestAddress: UInt64) {
        let pointer = pointer(guestAddress) + index * Descriptor.byteCount
        pointer.storeBytes(of: descriptor.address, as: UInt64.self)
        (pointer + 8).storeBytes(of: descriptor.byteCount, as: UInt32.self)
        (pointer + 12).storeBytes(of: descriptor.flags, as: UInt16.self)
        (pointer + 14).storeBytes(of: descriptor.next, as: UInt16.self)
    }

    /// Makes `head` available at `position` and moves the index behind it.
    func offer(_ head: UInt16, at position: UInt16) {
        let ring = AvailableRing(base: layout.availableRing, mask: layout.size - 1)
        ring.setHead(head, at: position)
        ring.releaseIndex(position &+ 1)
    }

    func setAvailableIndex(_ index: UInt16) {
        AvailableRing(base: layout.availableRing, mask: layout.size - 1).releaseIndex(index)
    }

    /// Lets the device return `id` at `position`.
    func giveBack(_ id: UInt32, byteCount: UInt32, at position: UInt16) {
        let ring = UsedRing(base: layout.usedRing, mask: layout.size - 1)
        ring.setElement(id: id, byteCount: byteCount, at: position)
        ring.releaseIndex(position &+ 1)
    }

    func bytes(_ pointer: UnsafeMutableRawPointer, _ count: Int) -> [UInt8] {
        Array(UnsafeRawBufferPointer(start: pointer, count: count))
    }
}

extension VirtqueueFeatures {
    static let all = VirtqueueFeatures(eventIndex: true, indirectDescriptors: true)
    static let none = VirtqueueFeatures(eventIndex: false, indirectDescriptors: false)
    static let indirect = VirtqueueFeatures(eventIndex: false, indirectDescriptors: true)
}

extension NextChain {
    /// The chain, if one was taken.
    var taken: DescriptorChain? {
        if case .chain(let chain) = self { chain } else { nil }
    }
}

/// SplitMix64: small, seeded, the same everywhere.
struct SeededGenerator: RandomNumberGenerator {
    private var state: UInt64

    init(seed: UInt64) {
        state = seed
    }

    mutating func next() -> UInt64 {
        state &+= 0x9e37_79b9_7f4a_7c15
        var value = state
        value = (value ^ (value >> 30)) &* 0xbf58_476d_1ce4_e5b9
        value = (value ^ (value >> 27)) &* 0x94d0_49bb_1331_11eb
        return value ^ (value >> 31)
    }

    mutating func int(_ range: ClosedRange<Int>) -> Int { Int.random(in: range, using: &self) }

    mutating func chance(_ percent: Int) -> Bool { int(1...100) <= percent }
}
