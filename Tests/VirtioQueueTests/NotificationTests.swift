// SPDX-License-Identifier: Apache-2.0

import Testing

import VirtioQueue

@Suite struct NotificationTests {
    @Test("an event is crossed exactly when its entry is among the new ones, against 64-bit positions")
    func eventIndexModel() {
        let bases: [UInt64] = [0x10000, 0x10001, 0x17fff, 0x18000, 0x1fffe, 0x1ffff, 0x20000, 0x2fff0]
        let steps: [UInt64] = [0, 1, 2, 3, 255, 256, 257, 32767, 32768]
        for old in bases {
            for count in steps {
                // The other side asks for an entry at most a queue size behind or ahead of what it has seen.
                for distance in [-32768, -32767, -257, -256, -2, -1, 0, 1, 2, 255, 256, 32766, 32767] {
                    let event = UInt64(Int(old) + distance)
                    let expected = old <= event && event < old + count
                    let result = NotificationSuppression.isCrossed(
                        event: UInt16(truncatingIfNeeded: event), old: UInt16(truncatingIfNeeded: old),
                        new: UInt16(truncatingIfNeeded: old + count))
                    #expect(result == expected, "old \(old) count \(count) event \(event)")
                }
            }
        }
    }

    @Test("several publications are covered by one decision, also across the wrap")
    func batches() {
        for start: UInt16 in [0, 100, 0xfff0, 0xffff] {
            for eventOffset in 0..<40 {
                var suppression = NotificationSuppression()
                suppression.add(1)
                #expect(suppression.decide(event: 0x8000, index: start) == true, "the first decision is always yes")
                suppression.add(10)
                suppression.add(20)
                let event = start &+ UInt16(eventOffset)
                #expect(suppression.decide(event: event, index: start &+ 30) == (eventOffset < 30))
                #expect(suppression.undecidedCount == 0)
            }
        }
    }

    @Test("a full turn of the index since the last decision notifies wherever the event is")
    func fullTurn() {
        var suppression = NotificationSuppression()
        suppression.add(1)
        _ = suppression.decide(event: 0, index: 1)
        suppression.add(0xffff)
        #expect(suppression.decide(event: 0, index: 0) == false, "65535 entries cross every event but one")
        suppression.add(0x8000)
        suppression.add(0x8000)
        #expect(suppression.decide(event: 0x1234, index: 0) == true)
        for _ in 0..<200_000 {
            suppression.add(0xffff)
        }
        #expect(suppression.decide(event: 0x1234, index: 0) == true)
        suppression.add(1)
        #expect(suppression.decide(event: 0x1234, index: 1) == false)
    }

    @Test("a device notifies by used_event and a driver kicks by avail_event")
    func eventIndex() throws {
        let queue = try TestQueue(size: 8)
        var driver = queue.driver(.all)
        var device = queue.device(.all)
        var list = SegmentList(capacity: 8)
        func add(_ count: Int) {
            for _ in 0..<count {
                _ = driver.add(
                    readable: [GuestBuffer(guestAddress: queue.dataAddress, byteCount: 1)], writable: [], token: 0)
            }
            driver.publish()
        }
        func serve(_ count: Int) throws {
            for _ in 0..<count {
                let chain = try #require(try device.next(memory: queue.memory, into: &list).taken)
                device.addUsed(head: chain.head, writtenByteCount: 0)
            }
            device.publishUsed()
            list.removeAll()
        }
        #expect(driver.needsKick() == false, "nothing was published")
        #expect(device.enableKicks() == false)
        add(1)
        #expect(driver.needsKick() == true)
        #expect(driver.needsKick() == false, "a decision is made once")
        device.disableKicks()
        add(2)
        #expect(driver.needsKick() == false, "avail_event is behind")
        #expect(device.enableKicks() == true, "more is available")
        try serve(3)
        #expect(device.needsNotification() == true)
        #expect(device.needsNotification() == false)
        #expect(device.enableKicks() == false)
        while try driver.popUsed() != nil {}
        #expect(driver.enableInterrupts() == false)
        add(2)
        #expect(driver.needsKick() == true)
        try serve(1)
        #expect(device.needsNotification() == true)
        try serve(1)
        #expect(device.needsNotification() == false, "used_event was crossed by the entry before")
        #expect(driver.enableInterrupts() == true, "there is something to take back")
    }

    @Test("without event index the flags decide")
    func flags() throws {
        let queue = try TestQueue(size: 8)
        var driver = queue.driver(.none)
        var device = queue.device(.none)
        var list = SegmentList(capacity: 8)
        func exchange() throws -> (kick: Bool, call: Bool) {
            _ = driver.add(
                readable: [GuestBuffer(guestAddress: queue.dataAddress, byteCount: 1)], writable: [], token: 0)
            driver.publish()
            let kick = driver.needsKick()
            let chain = try #require(try device.next(memory: queue.memory, into: &list).taken)
            device.addUsed(head: chain.head, writtenByteCount: 0)
            device.publishUsed()
            list.removeAll()
            let call = device.needsNotification()
            _ = try driver.popUsed()
            return (kick, call)
        }
        #expect(try exchange() == (true, true))
        device.disableKicks()
        #expect(try exchange() == (false, true))
        driver.disableInterrupts()
        #expect(try exchange() == (false, false))
        #expect(device.enableKicks() == false)
        #expect(driver.enableInterrupts() == false)
        #expect(try exchange() == (true, true))
        #expect(driver.needsKick() == false)
        #expect(device.needsNotification() == false)
    }
}
