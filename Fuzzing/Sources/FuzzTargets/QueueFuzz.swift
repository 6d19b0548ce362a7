// SPDX-License-Identifier: Apache-2.0
//
// A split queue in memory that its other half writes to as it likes: descriptors that loop, point into each other, into
// the rings, across regions and outside; indirect tables in indirect tables, at odd addresses; entries that change
// between two looks, because chains are written to that lie over descriptors and rings.

@testable import VirtioQueue

enum QueueFuzz {
    static func run(_ input: inout FuzzInput, _ bench: FuzzBench) throws(FuzzFinding) {
        switch input.below(4) {
        case 0: try DriverSide.run(&input, bench)
        case 1: try MemoryTable.run(&input)
        default: try DeviceSide.run(&input, bench)
        }
    }
}

/// The device's half against a driver that writes anything.
private struct DeviceSide: ~Copyable {
    let memory: FuzzMemory
    let size: Int
    var queue: DeviceQueue
    var segments: SegmentList
    /// Chains taken and not returned.
    var taken: [DescriptorChain] = []
    let available: AvailableRing
    var position: UInt16

    init(_ input: inout FuzzInput, _ memory: FuzzMemory, _ layout: VirtqueueLayout) {
        self.memory = memory
        size = Int(layout.size)
        segments = SegmentList(capacity: 1 + input.below(64))
        position = input.flag() ? 0 : UInt16.max &- UInt16(input.below(4))
        available = AvailableRing(base: layout.availableRing, mask: layout.size - 1)
        available.releaseIndex(position)
        queue = DeviceQueue(
            layout: layout, features: FuzzMemory.features(&input), owner: memory, startIndex: position)
    }

    static func run(_ input: inout FuzzInput, _ bench: FuzzBench) throws(FuzzFinding) {
        let memory = try bench.cleanMemory()
        var side = DeviceSide(&input, memory, try memory.layout(size: 1 << input.below(8)))
        while !input.isEmpty { try side.step(&input) }
    }

    private mutating func step(_ input: inout FuzzInput) throws(FuzzFinding) {
        switch input.below(12) {
        case 0, 1:
            let descriptor = FuzzMemory.descriptor(&input, size: size)
            memory.write(descriptor, at: FuzzMemory.start + UInt64(16 * input.below(size)))
        case 2:
            memory.write(FuzzMemory.descriptor(&input, size: 64), at: FuzzMemory.address(&input))
        case 3, 4:
            available.setHead(input.below(32) == 0 ? input.integer() : UInt16(input.below(size)), at: position)
            position &+= 1
            available.releaseIndex(position)
        case 5:
            // Heads that were offered before are offered again, which no driver may.
            position &+= UInt16(input.below(size + 2))
            available.releaseIndex(position)
        case 6: memory.poke(&input)
        case 7, 8: try take()
        case 9: scribble(&input)
        case 10: finishBatch(&input)
        default:
            guard let last = taken.popLast() else { return }
            segments.truncate(to: min(segments.count, last.readable.lowerBound))
            queue.rewind(1)
        }
    }

    private mutating func take() throws(FuzzFinding) {
        let start = segments.count
        let before = queue.nextAvailableIndex
        let next: NextChain
        do throws(VirtqueueError) {
            next = try queue.next(memory: memory.memory, into: &segments)
        } catch {
            // The queue is broken, and stays so until what broke it is gone.
            let isUnchanged = queue.nextAvailableIndex == before && segments.count == start
            return try expect(isUnchanged, "a broken queue takes nothing: \(error)")
        }
        let (after, count, defect) = (queue.nextAvailableIndex, segments.count, queue.lastDefect)
        switch next {
        case .empty: try expect(after == before && count == start, "nothing was taken")
        case .full: try expect(start > 0 && after == before && count == start, "a full list keeps what it had")
        case .malformed:
            try expect(count == start && defect != nil, "a malformed chain leaves nothing and says why")
        case .chain(let chain):
            try check(chain, from: start)
            taken.append(chain)
        }
    }

    private func check(_ chain: DescriptorChain, from start: Int) throws(FuzzFinding) {
        let end = segments.count
        try expect(
            chain.readable.lowerBound == start && chain.readable.upperBound == chain.writable.lowerBound
                && chain.writable.upperBound == end, "segments are where the chain says")
        var byteCounts = (readable: 0, writable: 0)
        for index in start..<end {
            let segment = segments[index]
            try expect(segment.count > 0 && memory.contains(segment), "a segment lies in guest memory")
            // AddressSanitizer looks at both ends.
            _ = segment.base.load(as: UInt8.self) &+ (segment.base + segment.count - 1).load(as: UInt8.self)
            if index < chain.writable.lowerBound {
                byteCounts.readable += segment.count
            } else {
                byteCounts.writable += segment.count
            }
        }
        try expect(
            byteCounts.readable == chain.readableByteCount && byteCounts.writable == chain.writableByteCount,
            "byte counts are those of the segments")
        try expect(Int(chain.head) < size, "a head is an index of the table")
    }

    /// Writes to a chain, which may lie over descriptors and rings.
    private func scribble(_ input: inout FuzzInput) {
        guard let chain = taken.last else { return }
        for index in chain.writable {
            let segment = segments[index]
            let value = input.byte()
            segment.base.storeBytes(of: value, as: UInt8.self)
            (segment.base + segment.count / 2).storeBytes(of: value, as: UInt8.self)
            (segment.base + segment.count - 1).storeBytes(of: value, as: UInt8.self)
        }
    }

    private mutating func finishBatch(_ input: inout FuzzInput) {
        for chain in taken {
            queue.addUsed(head: chain.head, writtenByteCount: UInt32(chain.writableByteCount & 0xffff))
        }
        taken.removeAll()
        segments.removeAll()
        queue.publishUsed()
        _ = queue.needsNotification()
        if input.flag() { queue.disableKicks() } else { _ = queue.enableKicks() }
        _ = queue.availableCount
    }
}

/// The driver's half against a device that returns anything.
private enum DriverSide {
    static func run(_ input: inout FuzzInput, _ bench: FuzzBench) throws(FuzzFinding) {
        let memory = try bench.cleanMemory()
        let size = 1 << input.below(7)
        let layout = try memory.layout(size: size)
        let tablesAddress = FuzzMemory.start + 8192
        let tables = memory.memory.resolve(tablesAddress, byteCount: 4096).map {
            IndirectTables(guestAddress: tablesAddress, base: $0, descriptorsPerTable: 4096 / 16 / size)
        }
        var queue = DriverQueue(
            layout: layout, features: FuzzMemory.features(&input), indirectTables: input.flag() ? tables : nil,
            owner: memory)
        let used = UsedRing(base: layout.usedRing, mask: layout.size - 1)
        var position: UInt16 = 0
        var inFlight: Set<Int> = []
        var lastToken = 0
        while !input.isEmpty {
            switch input.below(7) {
            case 0, 1:
                let buffers = (0..<(1 + input.below(4))).map { _ in
                    GuestBuffer(guestAddress: FuzzMemory.address(&input), byteCount: UInt32(input.byte()))
                }
                let middle = input.below(buffers.count + 1)
                lastToken += 1
                if queue.add(
                    readable: Array(buffers[..<middle]), writable: Array(buffers[middle...]), token: lastToken)
                {
                    inFlight.insert(lastToken)
                }
            case 2:
                queue.publish()
                _ = queue.needsKick()
            case 3:
                let id = input.below(16) == 0 ? input.integer(UInt32.self) : UInt32(input.below(size))
                used.setElement(id: id, byteCount: input.integer(), at: position)
                position &+= 1
                used.releaseIndex(position)
            case 4: memory.poke(&input)
            case 5: used.releaseIndex(position &+ UInt16(input.byte()))
            default:
                // What is wrong with the ring, the queue's own books stay right.
                if let (token, _) = try? queue.popUsed() {
                    try expect(inFlight.remove(token) != nil, "only what is in flight comes back, once")
                }
            }
            let (chainCount, freeCount) = (queue.inFlightCount, queue.freeDescriptorCount)
            try expect(chainCount == inFlight.count, "chains in flight are counted")
            try expect(freeCount + chainCount <= size, "a descriptor is free or in flight")
        }
    }
}

/// Tables of regions, right and wrong, and questions to them. Their memory is never touched.
private enum MemoryTable {
    static func run(_ input: inout FuzzInput) throws(FuzzFinding) {
        let block = UnsafeMutableRawPointer.allocate(byteCount: 16, alignment: 16)
        defer { block.deallocate() }
        var regions: [GuestMemory.Region] = []
        for _ in 0..<input.below(20) {
            let guestAddress = input.number()
            regions.append(
                GuestMemory.Region(
                    guestAddress: guestAddress, byteCount: input.number(),
                    userAddress: input.flag() ? guestAddress : input.number(), base: block))
        }
        guard let memory = try? GuestMemory(regions: regions) else { return }
        while !input.isEmpty {
            let address = input.number()
            let byteCount = Int(truncatingIfNeeded: input.number() >> 1)
            let region = regions.first { address >= $0.guestAddress && address - $0.guestAddress < $0.byteCount }
            let room = region.map { $0.byteCount - (address - $0.guestAddress) } ?? 0
            try expect(
                (memory.resolve(address, byteCount: byteCount) != nil) == (region != nil && UInt64(byteCount) <= room),
                "a range is resolved when it is in one region")
            let slice = memory.slice(at: address, upTo: byteCount)
            try expect(
                slice.map { UInt64($0.count) } ?? 0 == min(UInt64(byteCount), room), "a slice ends with its region")
            var sum = 0
            let isWhole = memory.forEachSlice(address, byteCount: byteCount) { slice in
                sum += slice.count
                return slice.count > 0
            }
            try expect(isWhole ? sum == byteCount : sum <= byteCount, "slices make up the range")
            _ = memory.resolveUserAddress(address, byteCount: byteCount)
        }
    }
}
