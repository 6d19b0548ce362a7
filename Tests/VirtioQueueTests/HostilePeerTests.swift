// SPDX-License-Identifier: Apache-2.0
//
// Everything that the other half can do wrong.

import Testing

import VirtioQueue

@Suite struct HostilePeerTests {
    struct Case: Sendable, CustomTestStringConvertible {
        let testDescription: String
        let defect: ChainDefect
        var features = VirtqueueFeatures.all
        /// Descriptors of the queue; addresses are offsets into the data area unless they have bit 63 set.
        let descriptors: [Descriptor]
        /// Descriptors of a table at offset 4096 of the data area.
        var table: [Descriptor] = []
    }

    static func d(_ address: UInt64, _ count: UInt32, _ flags: UInt16, _ next: UInt16 = 0) -> Descriptor {
        Descriptor(address: address, byteCount: count, flags: flags, next: next)
    }

    static let outside: UInt64 = 1 << 63

    static let cases: [Case] = [
        Case(testDescription: "loop of one", defect: .loop, descriptors: [d(0, 1, 1, 0)]),
        Case(testDescription: "loop of two", defect: .loop, descriptors: [d(0, 1, 1, 1), d(0, 1, 1, 0)]),
        Case(testDescription: "loop of empty buffers", defect: .loop, descriptors: [d(0, 0, 1, 1), d(0, 0, 1, 1)]),
        Case(testDescription: "next out of range", defect: .nextOutOfRange, descriptors: [d(0, 1, 1, 4)]),
        Case(testDescription: "next far out of range", defect: .nextOutOfRange, descriptors: [d(0, 1, 1, 0xffff)]),
        Case(testDescription: "address outside", defect: .outsideMemory, descriptors: [d(outside, 1, 0)]),
        Case(testDescription: "address at the very end", defect: .outsideMemory, descriptors: [d(UInt64.max, 1, 0)]),
        Case(
            testDescription: "end outside", defect: .outsideMemory,
            descriptors: [d(UInt64(TestQueue.dataByteCount) - 1, 2, 0)]),
        Case(testDescription: "length wraps", defect: .outsideMemory, descriptors: [d(0, UInt32.max, 2)]),
        Case(
            testDescription: "readable after writable", defect: .readableAfterWritable,
            descriptors: [d(0, 1, 3, 1), d(0, 1, 0)]),
        Case(
            testDescription: "indirect not negotiated", defect: .indirectNotNegotiated,
            features: VirtqueueFeatures(eventIndex: true, indirectDescriptors: false),
            descriptors: [d(4096, 16, 4)], table: [d(0, 1, 0)]),
        Case(
            testDescription: "indirect in indirect", defect: .indirectInIndirect, descriptors: [d(4096, 32, 4)],
            table: [d(0, 1, 1, 1), d(4096, 16, 4)]),
        Case(
            testDescription: "indirect with next", defect: .indirectWithNext,
            descriptors: [d(4096, 16, 5, 1), d(0, 1, 0)],
            table: [d(0, 1, 0)]),
        Case(testDescription: "table of no bytes", defect: .indirectTableLength, descriptors: [d(4096, 0, 4)]),
        Case(testDescription: "table of 15 bytes", defect: .indirectTableLength, descriptors: [d(4096, 15, 4)]),
        Case(testDescription: "table of 17 bytes", defect: .indirectTableLength, descriptors: [d(4096, 17, 4)]),
        Case(
            testDescription: "table above the limit", defect: .indirectTableLength, descriptors: [d(4096, 16 * 1025, 4)]
        ),
        Case(
            testDescription: "table of 4 GiB", defect: .indirectTableLength, descriptors: [d(4096, 0xffff_fff0, 4)]),
        Case(testDescription: "table outside", defect: .indirectTableOutsideMemory, descriptors: [d(outside, 16, 4)]),
        Case(
            testDescription: "table ends outside", defect: .indirectTableOutsideMemory,
            descriptors: [d(UInt64(TestQueue.dataByteCount) - 16, 32, 4)]),
        Case(
            testDescription: "table wraps around the address space", defect: .indirectTableOutsideMemory,
            descriptors: [d(UInt64.max - 7, 32, 4)]),
        Case(
            testDescription: "next behind the table", defect: .nextOutOfRange, descriptors: [d(4096, 32, 4)],
            table: [d(0, 1, 1, 2), d(0, 1, 0), d(0, 1, 0)]),
        Case(
            testDescription: "loop in the table", defect: .loop, descriptors: [d(4096, 32, 4)],
            table: [d(0, 1, 1, 1), d(0, 1, 1, 0)]),
        Case(
            testDescription: "readable in the table after writable before it", defect: .readableAfterWritable,
            descriptors: [d(0, 1, 3, 1), d(4096, 16, 4)], table: [d(0, 1, 0)]),
    ]

    @Test(
        "a malformed chain is taken, reported with its head, and leaves the list and the next chain alone",
        arguments: cases)
    func malformed(_ test: Case) throws {
        let queue = try TestQueue(size: 4)
        for (index, descriptor) in test.descriptors.enumerated() {
            queue.write(Self.placed(descriptor, in: queue), at: index)
        }
        for (index, descriptor) in test.table.enumerated() {
            queue.write(Self.placed(descriptor, in: queue), at: index, ofTable: queue.dataAddress + 4096)
        }
        queue.write(Self.d(queue.dataAddress, 3, 0), at: 3)
        queue.offer(3, at: 0)
        queue.offer(0, at: 1)
        queue.offer(3, at: 2)
        var device = queue.device(test.features)
        var list = SegmentList(capacity: 64)
        #expect(try device.next(memory: queue.memory, into: &list).taken?.readable == 0..<1)
        #expect(try device.next(memory: queue.memory, into: &list) == .malformed(head: 0))
        #expect(device.lastDefect == test.defect)
        #expect(list.count == 1)
        #expect(try device.next(memory: queue.memory, into: &list).taken?.readable == 1..<2)
        #expect(device.nextAvailableIndex == 3)
    }

    static func placed(_ descriptor: Descriptor, in queue: TestQueue) -> Descriptor {
        var placed = descriptor
        if descriptor.address < outside {
            placed.address += queue.dataAddress
        }
        return placed
    }

    @Test("byte counts that add up to more than 2^32 are malformed, however they are spread", arguments: [0, 1, 2])
    func tooManyBytes(readableCount: Int) throws {
        let queue = try TestQueue(size: 4)
        // Addresses only: nothing is read or written there.
        let large = GuestMemory.Region(guestAddress: 1 << 40, byteCount: 1 << 33, base: queue.base)
        let memory = try GuestMemory(regions: queue.memory.regions + [large])
        queue.write(Self.d(1 << 40, UInt32.max, readableCount > 0 ? 1 : 3, 1), at: 0)
        queue.write(Self.d(1 << 40, 2, readableCount > 1 ? 0 : 2), at: 1)
        queue.offer(0, at: 0)
        var device = queue.device()
        var list = SegmentList(capacity: 8)
        #expect(try device.next(memory: memory, into: &list) == .malformed(head: 0))
        #expect(device.lastDefect == .tooManyBytes)
    }

    @Test("every kind of defect has a test")
    func coverage() {
        let tested = Set(Self.cases.map { "\($0.defect)" }).union(["tooManyBytes", "tooManySegments"])
        #expect(tested == Set(ChainDefect.allCases.map { "\($0)" }))
    }

    @Test(
        "an available index beyond the queue size stops the queue",
        arguments: [(0, 5), (0, 0xffff), (0xfffe, 3), (10, 9)])
    func availableIndexJump(next: UInt16, index: UInt16) throws {
        let queue = try TestQueue(size: 4)
        queue.setAvailableIndex(index)
        var device = queue.device(startIndex: next)
        var list = SegmentList(capacity: 8)
        for _ in 0..<2 {
            #expect(throws: VirtqueueError.availableIndexJump(next: next, index: index)) {
                try device.next(memory: queue.memory, into: &list)
            }
        }
        #expect(device.availableCount == 4)
        #expect(device.nextAvailableIndex == next)
    }

    @Test("a head beyond the table stops the queue", arguments: [4, 5, 0x8000, 0xffff])
    func headOutOfRange(head: UInt16) throws {
        let queue = try TestQueue(size: 4)
        queue.offer(head, at: 0)
        var device = queue.device()
        var list = SegmentList(capacity: 8)
        #expect(throws: VirtqueueError.headOutOfRange(head)) { try device.next(memory: queue.memory, into: &list) }
        #expect(device.nextAvailableIndex == 0)
        #expect(list.isEmpty == true)
    }

    @Test("a driver refuses heads it did not give and indices beyond what is in flight")
    func hostileDevice() throws {
        let queue = try TestQueue(size: 4)
        var driver = queue.driver()
        let buffer = GuestBuffer(guestAddress: queue.dataAddress, byteCount: 8)
        #expect(driver.add(readable: [buffer], writable: [buffer], token: 1) == true)
        driver.publish()
        queue.giveBack(0, byteCount: 0, at: 1)
        #expect(throws: VirtqueueError.usedIndexJump(next: 0, index: 2)) { try driver.popUsed() }
        for id in [1, 2, 4, 0x10000, UInt32.max] {
            queue.giveBack(id, byteCount: 0, at: 0)
            var fresh = queue.driver()
            #expect(fresh.add(readable: [buffer], writable: [buffer], token: 1) == true)
            queue.giveBack(id, byteCount: 0, at: 0)
            #expect(throws: VirtqueueError.unknownUsedHead(id)) { try fresh.popUsed() }
        }
        var twice = queue.driver()
        #expect(twice.add(readable: [buffer], writable: [], token: 1) == true)
        #expect(twice.add(readable: [], writable: [buffer], token: 2) == true)
        queue.giveBack(1, byteCount: UInt32.max, at: 0)
        let returned = try #require(try twice.popUsed())
        #expect(returned == (2, 8))
        queue.giveBack(1, byteCount: 0, at: 1)
        #expect(throws: VirtqueueError.unknownUsedHead(1)) { try twice.popUsed() }
    }

    @Test(
        "whatever is in the queue's memory, the device neither traps nor leaves the guest's memory", arguments: 0..<64)
    func garbage(seed: UInt64) throws {
        var generator = SeededGenerator(seed: seed)
        let size = 1 << generator.int(0...6)
        let queue = try TestQueue(size: size)
        let extra = TestMapping(byteCount: 8192)
        let region = queue.memory.regions[0]
        let memory = try GuestMemory(regions: [
            region, extra.region(guestAddress: region.guestAddress + region.byteCount),
        ])
        var device = queue.device(.all)
        var list = SegmentList(capacity: generator.int(1...200))
        let used = UsedRing(base: queue.layout.usedRing, mask: queue.layout.size - 1)
        var position: UInt16 = 0
        for _ in 0..<400 {
            for index in 0..<size {
                queue.write(Self.randomDescriptor(&generator, size: size, queue: queue), at: index)
            }
            for index in 0..<64 {
                queue.write(
                    Self.randomDescriptor(&generator, size: 64, queue: queue), at: index, ofTable: queue.dataAddress)
            }
            for _ in 0..<generator.int(1...size) {
                queue.offer(UInt16(generator.int(0...(size - 1))), at: position)
                position &+= 1
            }
            if generator.chance(50) { list.removeAll() }
            try Self.drain(&device, memory: memory, into: &list, seed: seed)
            #expect(used.acquireIndex() == device.nextAvailableIndex, "seed \(seed): every chain is returned once")
            #expect(device.nextAvailableIndex == position, "seed \(seed)")
        }
    }

    /// Takes and returns all chains; every segment must be inside a region.
    static func drain(
        _ device: inout DeviceQueue, memory: GuestMemory, into list: inout SegmentList, seed: UInt64
    ) throws {
        while true {
            let start = list.count
            switch try device.next(memory: memory, into: &list) {
            case .empty:
                device.publishUsed()
                return
            case .full:
                #expect(start > 0, "seed \(seed)")
                list.removeAll()
            case .malformed(let head):
                #expect(list.count == start, "seed \(seed)")
                device.addUsed(head: head, writtenByteCount: 0)
            case .chain(let chain):
                var byteCount = 0
                for index in chain.readable.lowerBound..<chain.writable.upperBound {
                    let segment = list[index]
                    byteCount += segment.count
                    let isInside = memory.regions.contains {
                        segment.base >= $0.base && segment.base + segment.count <= $0.base + Int($0.byteCount)
                    }
                    if !isInside || segment.count == 0 { Issue.record("seed \(seed): segment outside memory") }
                }
                #expect(byteCount == chain.readableByteCount + chain.writableByteCount, "seed \(seed)")
                #expect(chain.writable.upperBound == list.count, "seed \(seed)")
                device.addUsed(head: chain.head, writtenByteCount: 0)
            }
        }
    }

    /// A descriptor that is more often plausible than not, so that walks get far.
    static func randomDescriptor(_ generator: inout SeededGenerator, size: Int, queue: TestQueue) -> Descriptor {
        let region = queue.memory.regions[0]
        let offset = UInt64(generator.int(0...(Int(region.byteCount) + 8192)))
        let isTable = generator.chance(15)
        let next =
            generator.chance(95)
            ? UInt16(generator.int(0...(size - 1))) : UInt16.random(in: 0...UInt16.max, using: &generator)
        var flags: UInt16 = generator.chance(40) ? 1 : 0
        if generator.chance(60) { flags |= 2 }
        if generator.chance(5) { flags = UInt16.random(in: 0...UInt16.max, using: &generator) }
        if isTable { flags = generator.chance(90) ? 4 : flags | 4 }
        let address: UInt64 =
            if isTable && generator.chance(90) {
                queue.dataAddress + UInt64(generator.int(0...3))
            } else if generator.chance(95) {
                region.guestAddress + offset
            } else {
                generator.next()
            }
        let count =
            isTable && generator.chance(90)
            ? 16 * UInt32(generator.int(0...62))
            : UInt32(truncatingIfNeeded: generator.next() >> UInt64(generator.int(32...63)))
        return Descriptor(address: address, byteCount: count, flags: flags, next: next)
    }
}
