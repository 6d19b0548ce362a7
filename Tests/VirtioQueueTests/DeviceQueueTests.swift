// SPDX-License-Identifier: Apache-2.0

import Testing

import VirtioQueue

@Suite struct DeviceQueueTests {
    @Test("a chain's segments come in order, readable before writable, in one list with its neighbours'")
    func chains() throws {
        let queue = try TestQueue(size: 8)
        var driver = queue.driver()
        var device = queue.device()
        let data = queue.dataAddress
        func buffer(_ offset: UInt64, _ count: UInt32) -> GuestBuffer {
            GuestBuffer(guestAddress: data + offset, byteCount: count)
        }
        #expect(driver.add(readable: [buffer(0, 44), buffer(100, 6)], writable: [], token: 1) == true)
        #expect(driver.add(readable: [buffer(200, 1)], writable: [buffer(300, 2), buffer(400, 3)], token: 2) == true)
        #expect(driver.add(readable: [], writable: [buffer(500, 0), buffer(600, 9)], token: 3) == true)
        driver.publish()
        #expect(device.availableCount == 3)
        var list = SegmentList(capacity: 16)
        let first = try #require(try device.next(memory: queue.memory, into: &list).taken)
        let second = try #require(try device.next(memory: queue.memory, into: &list).taken)
        let third = try #require(try device.next(memory: queue.memory, into: &list).taken)
        #expect(try device.next(memory: queue.memory, into: &list) == .empty)
        #expect(first.readable == 0..<2 && first.writable == 2..<2)
        #expect(first.readableByteCount == 50 && first.writableByteCount == 0)
        #expect(second.readable == 2..<3 && second.writable == 3..<5)
        #expect(second.readableByteCount == 1 && second.writableByteCount == 5)
        #expect(third.readable == 5..<5 && third.writable == 5..<6, "a buffer of no bytes is skipped")
        let offsets = list.withUnsafeBuffer { $0.map { $0.base - queue.pointer(data) } }
        #expect(offsets == [0, 100, 200, 300, 400, 600])
        #expect(device.nextAvailableIndex == 3)
        #expect(device.availableCount == 0)
        #expect(device.lastDefect == nil)

        device.addUsed(head: second.head, writtenByteCount: 5)
        device.addUsed(head: first.head, writtenByteCount: 50)
        device.publishUsed()
        let returned = try #require(try driver.popUsed())
        #expect(returned == (2, 5))
        let cut = try #require(try driver.popUsed())
        #expect(cut == (1, 0), "a length beyond the writable bytes is cut")
        #expect(try driver.popUsed() == nil)
        #expect(driver.inFlightCount == 1)
    }

    @Test("a chain that does not fit is not taken; one that fits no empty list is malformed")
    func fullList() throws {
        let queue = try TestQueue(size: 16)
        var driver = queue.driver()
        var device = queue.device()
        let buffer = GuestBuffer(guestAddress: queue.dataAddress, byteCount: 8)
        #expect(driver.add(readable: [buffer, buffer], writable: [], token: 0) == true)
        #expect(driver.add(readable: [buffer], writable: [buffer, buffer], token: 1) == true)
        #expect(driver.add(readable: [buffer, buffer], writable: [buffer, buffer, buffer], token: 2) == true)
        #expect(driver.add(readable: [buffer], writable: [], token: 3) == true)
        driver.publish()
        var list = SegmentList(capacity: 4)
        #expect(try device.next(memory: queue.memory, into: &list).taken?.head == 0)
        #expect(try device.next(memory: queue.memory, into: &list) == .full)
        #expect(list.count == 2)
        #expect(device.nextAvailableIndex == 1)
        list.removeAll()
        #expect(try device.next(memory: queue.memory, into: &list).taken?.writable == 1..<3)
        #expect(try device.next(memory: queue.memory, into: &list) == .full)
        list.removeAll()
        #expect(try device.next(memory: queue.memory, into: &list) == .malformed(head: 5))
        #expect(device.lastDefect == .tooManySegments)
        #expect(list.isEmpty == true)
        #expect(try device.next(memory: queue.memory, into: &list).taken?.head == 10)
    }

    @Test("chains that were put back are taken again in the same order, also across the wrap of the index")
    func rewind() throws {
        let queue = try TestQueue(size: 4)
        let start: UInt16 = 0xfffe
        for index in 0..<4 {
            queue.write(
                Descriptor(address: queue.dataAddress, byteCount: UInt32(index + 1), flags: 0, next: 0), at: index)
            queue.offer(UInt16(3 - index), at: start &+ UInt16(index))
        }
        var device = queue.device(startIndex: start)
        var list = SegmentList(capacity: 8)
        func heads(_ count: Int) throws -> [UInt16] {
            try (0..<count).compactMap { _ in try device.next(memory: queue.memory, into: &list).taken?.head }
        }
        #expect(try heads(4) == [3, 2, 1, 0])
        device.rewind(3)
        #expect(device.nextAvailableIndex == 0xffff)
        #expect(device.availableCount == 3)
        list.truncate(to: 1)
        #expect(try heads(4) == [2, 1, 0])
        device.rewind(0)
        #expect(try heads(1) == [])
        #expect(device.nextAvailableIndex == 2)
        device.rewind(4)
        list.removeAll()
        #expect(try heads(4) == [3, 2, 1, 0])
    }

    @Test("a buffer across adjacent regions becomes one segment for each")
    func crossesRegions() throws {
        let queue = try TestQueue(size: 4)
        let extra = TestMapping(byteCount: 4096)
        let region = queue.memory.regions[0]
        let end = region.guestAddress + region.byteCount
        let memory = try GuestMemory(regions: [extra.region(guestAddress: end), region])
        queue.write(Descriptor(address: end - 10, byteCount: 30, flags: 1, next: 1), at: 0)
        queue.write(Descriptor(address: end - 1, byteCount: 4097, flags: 2, next: 0), at: 1)
        queue.write(Descriptor(address: end - 1, byteCount: 4098, flags: 2, next: 0), at: 2)
        queue.offer(0, at: 0)
        queue.offer(2, at: 1)
        var device = queue.device()
        var list = SegmentList(capacity: 8)
        let chain = try #require(try device.next(memory: memory, into: &list).taken)
        #expect(chain.readable == 0..<2 && chain.writable == 2..<4)
        #expect(chain.readableByteCount == 30 && chain.writableByteCount == 4097)
        #expect(list.withUnsafeBuffer { $0.map(\.count) } == [10, 20, 1, 4096])
        #expect(list[1].base == extra.base && list[3].base == extra.base)
        #expect(try device.next(memory: memory, into: &list) == .malformed(head: 2))
        #expect(device.lastDefect == .outsideMemory)
        #expect(list.count == 4)
    }

    @Test("an indirect table may cross regions or be unaligned, and may follow direct descriptors")
    func indirectTables() throws {
        let queue = try TestQueue(size: 4)
        let extra = TestMapping(byteCount: 4096)
        let region = queue.memory.regions[0]
        let end = region.guestAddress + region.byteCount
        let memory = try GuestMemory(regions: [region, extra.region(guestAddress: end)])
        // Direct, then indirect with the meaningless write flag; the table's second entry is in the other region.
        queue.write(Descriptor(address: queue.dataAddress, byteCount: 5, flags: 1, next: 3), at: 0)
        queue.write(Descriptor(address: end - 16, byteCount: 32, flags: 4 | 2, next: 9), at: 3)
        queue.write(
            Descriptor(address: queue.dataAddress + 8, byteCount: 6, flags: 1, next: 1), at: 0, ofTable: end - 16)
        Descriptor(address: queue.dataAddress + 16, byteCount: 7, flags: 2, next: 0).store(to: extra.base)
        queue.offer(0, at: 0)
        // Unaligned table.
        queue.write(Descriptor(address: queue.dataAddress + 4097, byteCount: 16, flags: 4, next: 0), at: 1)
        let bytes: [UInt8] = [0, 0, 0, 0x40, 0, 0, 0, 0, 0x34, 0x12, 0, 0, 2, 0, 0, 0]
        queue.pointer(queue.dataAddress + 4097).copyMemory(from: bytes, byteCount: 16)
        queue.offer(1, at: 1)
        var device = queue.device()
        var list = SegmentList(capacity: 8)
        let chain = try #require(try device.next(memory: memory, into: &list).taken)
        #expect(chain.readableByteCount == 11 && chain.writableByteCount == 7)
        #expect(chain.readable == 0..<2 && chain.writable == 2..<3)
        let second = try #require(try device.next(memory: memory, into: &list).taken)
        #expect(second.writableByteCount == 0x1234)
        #expect(list[3].base == queue.base)
    }

    @Test(
        "the longest chains are accepted: the whole queue, 1024 in a table of a smaller queue, 2^32 bytes"
    )
    func longestChains() throws {
        let queue = try TestQueue(size: 32)
        for index in 0..<32 {
            let flags: UInt16 = index == 31 ? 0 : 1
            queue.write(
                Descriptor(address: queue.dataAddress, byteCount: 1, flags: flags, next: UInt16(index + 1)), at: index)
        }
        queue.offer(0, at: 0)
        var device = queue.device()
        var list = SegmentList(capacity: 1024)
        #expect(try device.next(memory: queue.memory, into: &list).taken?.readableByteCount == 32)
        list.removeAll()
        let table = queue.dataAddress + 4096
        queue.write(Descriptor(address: table, byteCount: 16 * 1024, flags: 4, next: 0), at: 0)
        for index in 0..<1024 {
            let flags: UInt16 = index == 1023 ? 2 : 3
            queue.write(
                Descriptor(address: queue.dataAddress, byteCount: 2, flags: flags, next: UInt16(index + 1)), at: index,
                ofTable: table)
        }
        queue.offer(0, at: 1)
        #expect(try device.next(memory: queue.memory, into: &list).taken?.writableByteCount == 2048)

        // A region of 4 GiB that is never touched: only its addresses are computed.
        let large = GuestMemory.Region(guestAddress: 1 << 40, byteCount: 1 << 33, base: queue.base)
        let memory = try GuestMemory(regions: queue.memory.regions + [large])
        queue.write(Descriptor(address: 1 << 40, byteCount: UInt32.max, flags: 1, next: 1), at: 0)
        queue.write(Descriptor(address: 1 << 40, byteCount: 1, flags: 2, next: 0), at: 1)
        queue.offer(0, at: 2)
        list.removeAll()
        let chain = try #require(try device.next(memory: memory, into: &list).taken)
        #expect(chain.readableByteCount + chain.writableByteCount == 1 << 32)
    }

    @Test("a queue that was stopped goes on where it was")
    func restart() throws {
        let queue = try TestQueue(size: 4)
        var driver = queue.driver(.all)
        let buffer = GuestBuffer(guestAddress: queue.dataAddress, byteCount: 8)
        for token in 0..<3 {
            #expect(driver.add(readable: [buffer], writable: [], token: token) == true)
        }
        driver.publish()
        var list = SegmentList(capacity: 4)
        var first = queue.device()
        for _ in 0..<2 {
            _ = try first.next(memory: queue.memory, into: &list)
        }
        first.addUsed(head: 0, writtenByteCount: 0)
        first.publishUsed()
        first.rewind(1)
        var second = queue.device(startIndex: first.nextAvailableIndex)
        #expect(second.needsNotification() == false, "nothing has been returned yet")
        for head in [UInt16(1), 2] {
            #expect(try second.next(memory: queue.memory, into: &list).taken?.head == head)
            second.addUsed(head: head, writtenByteCount: 0)
        }
        second.publishUsed()
        #expect(second.needsNotification() == true, "the first decision does not trust what happened before")
        for token in 0..<3 {
            #expect(try driver.popUsed()?.token == token)
        }
        #expect(try driver.popUsed() == nil)
    }
}
