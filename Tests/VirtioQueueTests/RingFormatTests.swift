// SPDX-License-Identifier: Apache-2.0
//
// The bytes of both halves, as in virtio 1.3 "Split Virtqueues".

import Testing

import VirtioQueue

@Suite struct RingFormatTests {
    @Test("a driver writes descriptors, available ring and index as the standard lays them out")
    func driverBytes() throws {
        let queue = try TestQueue(size: 4)
        var driver = queue.driver(.none)
        let added = driver.add(
            readable: [GuestBuffer(guestAddress: 0x1122_3344_5566_7788, byteCount: 0x2c)],
            writable: [GuestBuffer(guestAddress: 0x4000_0100, byteCount: 0x0102_0304)],
            token: 7)
        #expect(added)
        #expect(queue.bytes(queue.layout.availableRing, 4) == [0, 0, 0, 0], "nothing is visible before publish")
        driver.publish()
        #expect(
            queue.bytes(queue.layout.descriptorTable, 32) == [
                0x88, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11, 0x2c, 0, 0, 0, 1, 0, 1, 0,
                0x00, 0x01, 0x00, 0x40, 0, 0, 0, 0, 0x04, 0x03, 0x02, 0x01, 2, 0, 0, 0,
            ])
        #expect(queue.bytes(queue.layout.availableRing, 14) == [0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0])
        #expect(driver.add(readable: [GuestBuffer(guestAddress: 1, byteCount: 1)], writable: [], token: 8) == true)
        driver.publish()
        #expect(queue.bytes(queue.layout.availableRing, 14) == [0, 0, 2, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0])
        driver.disableInterrupts()
        #expect(queue.bytes(queue.layout.availableRing, 2) == [1, 0])
        _ = driver.enableInterrupts()
        #expect(queue.bytes(queue.layout.availableRing, 2) == [0, 0])
    }

    @Test("a driver writes an indirect table and one descriptor that refers to it")
    func indirectBytes() throws {
        let queue = try TestQueue(size: 2)
        let tables = IndirectTables(
            guestAddress: queue.dataAddress, base: queue.pointer(queue.dataAddress), descriptorsPerTable: 3)
        var driver = queue.driver(.indirect, tables: tables)
        let one = GuestBuffer(guestAddress: 0x1000, byteCount: 1)
        let two = GuestBuffer(guestAddress: 0x2000, byteCount: 2)
        #expect(driver.add(readable: [one], writable: [], token: 0) == true)
        #expect(driver.add(readable: [one], writable: [two, two], token: 1) == true)
        #expect(driver.freeDescriptorCount == 0)
        #expect(driver.add(readable: [one], writable: [two], token: 2) == false)
        let address = UInt8(truncatingIfNeeded: (queue.dataAddress + 48) >> 8)
        #expect(
            queue.bytes(queue.layout.descriptorTable, 32) == [
                0x00, 0x10, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0,
                48, address, 0, 0x40, 0, 0, 0, 0, 48, 0, 0, 0, 4, 0, 0, 0,
            ])
        #expect(
            queue.bytes(tables.base + 48, 48) == [
                0x00, 0x10, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1, 0, 1, 0,
                0x00, 0x20, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 3, 0, 2, 0,
                0x00, 0x20, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 2, 0, 0, 0,
            ])
    }

    @Test("a device writes used elements, index, flags and events as the standard lays them out")
    func deviceBytes() throws {
        let queue = try TestQueue(size: 2)
        var device = queue.device(.none)
        device.addUsed(head: 1, writtenByteCount: 0x0a0b_0c0d)
        #expect(device.unpublishedCount == 1)
        #expect(queue.bytes(queue.layout.usedRing, 4) == [0, 0, 0, 0], "nothing is visible before publishUsed")
        device.publishUsed()
        #expect(device.unpublishedCount == 0)
        device.disableKicks()
        #expect(
            queue.bytes(queue.layout.usedRing, 22) == [
                1, 0, 1, 0, 1, 0, 0, 0, 0x0d, 0x0c, 0x0b, 0x0a, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
            ])
        _ = device.enableKicks()
        #expect(queue.bytes(queue.layout.usedRing, 2) == [0, 0])

        var indexed = queue.device(.all, startIndex: 0x0102)
        _ = indexed.enableKicks()
        #expect(queue.bytes(queue.layout.usedRing + 20, 2) == [0x02, 0x01], "avail_event is behind the last element")
        indexed.disableKicks()
        #expect(queue.bytes(queue.layout.usedRing, 2) == [0, 0])
        #expect(queue.bytes(queue.layout.usedRing + 20, 2) == [0x02, 0x01])

        var driver = queue.driver(.all)
        queue.giveBack(0, byteCount: 0, at: 0)
        _ = driver.add(readable: [GuestBuffer(guestAddress: 0, byteCount: 1)], writable: [], token: 0)
        #expect(driver.enableInterrupts() == true)
        _ = try driver.popUsed()
        #expect(driver.enableInterrupts() == false)
        #expect(queue.bytes(queue.layout.availableRing + 8, 2) == [1, 0], "used_event is behind the last entry")
    }

    @Test("a new driver zeroes the queue and leaves everything else alone")
    func driverZeroes() throws {
        let queue = try TestQueue(size: 8)
        let count = Int(queue.dataAddress - TestQueue.guestAddress) + 64
        queue.base.initializeMemory(as: UInt8.self, repeating: 0xff, count: count)
        _ = queue.driver()
        for (part, length) in [
            (queue.layout.descriptorTable, VirtqueueLayout.descriptorTableByteCount(size: 8)),
            (queue.layout.availableRing, VirtqueueLayout.availableRingByteCount(size: 8)),
            (queue.layout.usedRing, VirtqueueLayout.usedRingByteCount(size: 8)),
        ] {
            #expect(queue.bytes(part, length).allSatisfy { $0 == 0 })
        }
        #expect(queue.bytes(queue.layout.usedRing + VirtqueueLayout.usedRingByteCount(size: 8), 1) == [0xff])
        #expect(queue.bytes(queue.pointer(queue.dataAddress), 64).allSatisfy { $0 == 0xff })
    }
}
