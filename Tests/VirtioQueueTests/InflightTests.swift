// SPDX-License-Identifier: Apache-2.0
//
// A device that is killed between any two of its stores, and the one that comes after it.

import Testing

@testable import VirtioQueue

@Suite struct InflightTests {
    private let queue: TestQueue
    private let record: TestMapping
    private let region: InflightRegion

    init() throws {
        queue = try TestQueue(size: 8)
        record = TestMapping(byteCount: InflightRegion.byteCount(queueSize: 8))
        region = try #require(InflightRegion(base: record.base, queueSize: 8))
    }

    /// A device with the record, as it starts, or as it comes after a kill.
    private func device(resubmits: Bool, base: UInt16 = 0) -> DeviceQueue {
        DeviceQueue(
            layout: queue.layout, features: .all, owner: queue.memory, startIndex: base, inflight: region,
            resubmits: resubmits)
    }

    private func add(_ driver: inout DriverQueue, _ tokens: Range<Int>) {
        let buffer = GuestBuffer(guestAddress: queue.dataAddress, byteCount: 8)
        for token in tokens {
            let isAdded = driver.add(readable: [buffer], writable: [], token: token)
            #expect(isAdded)
        }
        driver.publish()
    }

    private func take(_ device: inout DeviceQueue) throws -> UInt16? {
        var list = SegmentList(capacity: 4)
        return try device.next(memory: queue.memory, into: &list).taken?.head
    }

    /// Returns whatever there is, and tells which of the driver's tokens came back.
    private func finish(_ device: inout DeviceQueue, _ driver: inout DriverQueue) throws -> [Int] {
        while let head = try take(&device) { device.addUsed(head: head, writtenByteCount: 0) }
        device.publishUsed()
        var tokens: [Int] = []
        while let used = try driver.popUsed() { tokens.append(used.token) }
        return tokens
    }

    @Test("a record has the layout of the specification")
    func layout() throws {
        var driver = queue.driver()
        add(&driver, 0..<2)
        var first = device(resubmits: false)
        let taken = try take(&first)
        let head = try #require(taken)
        let bytes = record.base.assumingMemoryBound(to: UInt8.self)
        #expect(InflightRegion.byteCount(queueSize: 8) == 192, "16 + 8 * 16 bytes, in steps of 64")
        #expect(bytes[8] == 1 && bytes[10] == 8, "version and number of descriptors")
        #expect(bytes[16 + 16 * Int(head)] == 1, "in flight")
        first.addUsed(head: head, writtenByteCount: 0)
        first.publishUsed()
        #expect(bytes[16 + 16 * Int(head)] == 0)
        #expect(UInt16(bytes[12]) == head && bytes[14] == 1, "head of the last batch, and index of the used ring")
    }

    @Test("chains that were taken and not returned come first, in their order, and each comes back once")
    func kill() throws {
        for takenCount in 0...6 {
            for returnedCount in 0...takenCount {
                for publishes in [false, true] {
                    let setup = try InflightTests()
                    try setup.kill(taken: takenCount, returned: returnedCount, publishes: publishes)
                }
            }
        }
    }

    private func kill(taken: Int, returned: Int, publishes: Bool) throws {
        var driver = queue.driver()
        add(&driver, 0..<6)
        var first = device(resubmits: false)
        var heads: [UInt16] = []
        for _ in 0..<taken { heads.append(try take(&first) ?? .max) }
        for head in heads.prefix(returned) { first.addUsed(head: head, writtenByteCount: 0) }
        if publishes { first.publishUsed() }
        add(&driver, 6..<8)
        var second = device(resubmits: true, base: 4711)
        let tokens = try finish(&second, &driver)
        #expect(tokens == Array(0..<8), "taken \(taken), returned \(returned), published \(publishes)")
        #expect(driver.inFlightCount == 0)
        #expect(region.inflightHeads == [])
    }

    @Test("a batch that the used ring shows and the record does not is taken as returned")
    func killedInPublish() throws {
        var driver = queue.driver()
        add(&driver, 0..<6)
        var first = device(resubmits: false)
        for _ in 0..<3 {
            let taken = try take(&first)
            let head = try #require(taken)
            first.addUsed(head: head, writtenByteCount: 0)
        }
        _ = try take(&first)
        // What publishUsed does first; the kill comes before the rest.
        UsedRing(base: queue.layout.usedRing, mask: 7).releaseIndex(3)
        #expect(region.inflightHeads.count == 4)
        var second = device(resubmits: true)
        let tokens1 = try finish(&second, &driver)
        #expect(tokens1 == Array(0..<6))
    }

    @Test("a chain that was put back, and one that a killed device has resubmitted, are not lost")
    func rewound() throws {
        var driver = queue.driver()
        add(&driver, 0..<5)
        var first = device(resubmits: false)
        for _ in 0..<4 { _ = try take(&first) }
        first.rewind(2)
        var second = device(resubmits: true)
        for _ in 0..<3 { _ = try take(&second) }
        second.rewind(1)
        let again = try take(&second)
        #expect(again == 2, "what was put back comes again")
        var third = device(resubmits: true)
        let tokens2 = try finish(&third, &driver)
        #expect(tokens2 == Array(0..<5))
        add(&driver, 5..<13)
        let tokens3 = try finish(&third, &driver)
        #expect(tokens3 == Array(5..<13), "and the ring goes on behind them")
    }

    @Test("chains that another device took out of order are taken in the order of their counters")
    func order() throws {
        var driver = queue.driver()
        add(&driver, 0..<4)
        region.clear(usedIndex: 0)
        region.take(3, counter: 5)
        region.take(1, counter: 9)
        region.take(0, counter: 7)
        region.take(2, counter: 8)
        var second = device(resubmits: true)
        let tokens4 = try finish(&second, &driver)
        #expect(tokens4 == [3, 0, 2, 1])
    }

    @Test("a ring that is set up anew forgets what was recorded")
    func forgotten() throws {
        var driver = queue.driver()
        add(&driver, 0..<4)
        var first = device(resubmits: false)
        _ = try take(&first)
        var second = device(resubmits: false, base: 0)
        #expect(region.inflightHeads == [])
        let tokens5 = try finish(&second, &driver)
        #expect(tokens5 == Array(0..<4))
    }

    @Test(
        "whatever a front-end writes to the record, heads stay inside of the queue and walks end",
        arguments: 0..<200 as Range<UInt64>)
    func garbage(seed: UInt64) throws {
        var random = SeededGenerator(seed: seed)
        for offset in 0..<record.byteCount {
            record.base.storeBytes(of: UInt8.random(in: 0...255, using: &random), toByteOffset: offset, as: UInt8.self)
        }
        record.base.storeBytes(of: 1, toByteOffset: 8, as: UInt16.self)
        record.base.storeBytes(of: 8, toByteOffset: 10, as: UInt16.self)
        var driver = queue.driver()
        add(&driver, 0..<8)
        var device = self.device(resubmits: true)
        var list = SegmentList(capacity: 64)
        for _ in 0..<100 {
            list.removeAll()
            guard case .chain(let chain)? = try? device.next(memory: queue.memory, into: &list) else { break }
            #expect(chain.head < 8, "seed \(seed)")
            device.addUsed(head: chain.head, writtenByteCount: 0)
            device.publishUsed()
        }
    }

    @Test("a region that lies askew, or of an impossible size, is none")
    func unusable() {
        #expect(InflightRegion(base: record.base + 4, queueSize: 8) == nil)
        #expect(InflightRegion(base: record.base, queueSize: 0) == nil)
        #expect(InflightRegion(base: record.base, queueSize: 40000) == nil)
    }
}
