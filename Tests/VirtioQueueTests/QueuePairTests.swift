// SPDX-License-Identifier: Apache-2.0
//
// Both halves on the same memory, against a model: every chain arrives once, in order, with its shape and bytes; every
// chain comes back once with its token and length; every descriptor is free in the end.

import Foundation
import Testing

import VirtioQueue

@Suite struct QueuePairTests {
    struct Shape {
        var token: Int
        var readable: [GuestBuffer]
        var writable: [GuestBuffer]
        var writtenByteCount: UInt32 = 0
    }

    /// The model and both halves.
    struct Pair: ~Copyable {
        let queue: TestQueue
        var driver: DriverQueue
        var device: DeviceQueue
        var list: SegmentList
        var generator: SeededGenerator
        var nextToken = 0
        var added: [Shape] = []
        var taken: [(head: UInt16, shape: Shape)] = []
        var returned: [Shape] = []

        init(seed: UInt64, size: Int) throws {
            generator = SeededGenerator(seed: seed)
            queue = try TestQueue(size: size)
            let features = VirtqueueFeatures(
                eventIndex: generator.chance(50), indirectDescriptors: generator.chance(50))
            let perTable = generator.int(1...20)
            let tables = IndirectTables(
                guestAddress: queue.dataAddress, base: queue.pointer(queue.dataAddress), descriptorsPerTable: perTable)
            driver = queue.driver(features, tables: tables)
            device = queue.device(features)
            list = SegmentList(capacity: generator.int(40...600))
        }

        mutating func randomBuffers(_ count: Int) -> [GuestBuffer] {
            (0..<count).map { _ in
                let offset = generator.int((1 << 19)...((1 << 20) - 4096))
                let byteCount = generator.chance(5) ? 0 : generator.int(1...4096)
                return GuestBuffer(guestAddress: queue.dataAddress + UInt64(offset), byteCount: UInt32(byteCount))
            }
        }

        mutating func add() {
            let limit = min(queue.size, 20)
            let readableCount = generator.int(0...limit)
            let writableCount = generator.int((readableCount == 0 ? 1 : 0)...max(limit - readableCount, 1))
            let shape = Shape(
                token: nextToken, readable: randomBuffers(readableCount), writable: randomBuffers(writableCount))
            let before = driver.freeDescriptorCount
            if driver.add(readable: shape.readable, writable: shape.writable, token: shape.token) {
                nextToken += 1
                added.append(shape)
            } else {
                #expect(before < readableCount + writableCount)
                #expect(driver.freeDescriptorCount == before)
            }
        }

        mutating func take() throws {
            let position = device.nextAvailableIndex
            let start = list.count
            switch try device.next(memory: queue.memory, into: &list) {
            case .empty:
                return
            case .full:
                #expect(start > 0)
                #expect(list.count == start && device.nextAvailableIndex == position)
                list.removeAll()
            case .malformed:
                Issue.record("a good chain was called malformed: \(String(describing: device.lastDefect))")
            case .chain(let chain):
                let shape = added.removeFirst()
                #expect(segments(chain.readable) == expected(shape.readable))
                #expect(segments(chain.writable) == expected(shape.writable))
                #expect(chain.readableByteCount == shape.readable.reduce(0) { $0 + Int($1.byteCount) })
                #expect(chain.writableByteCount == shape.writable.reduce(0) { $0 + Int($1.byteCount) })
                taken.append((chain.head, shape))
            }
        }

        func segments(_ range: Range<Int>) -> [Int] {
            list.withUnsafeBuffer(range) { $0.flatMap { [Int(bitPattern: $0.base), $0.count] } }
        }

        func expected(_ buffers: [GuestBuffer]) -> [Int] {
            buffers.filter { $0.byteCount > 0 }.flatMap {
                [Int(bitPattern: queue.pointer($0.guestAddress)), Int($0.byteCount)]
            }
        }

        /// Puts back the last `count` chains taken. Only chains behind which none was returned can be put back.
        mutating func rewind(_ count: Int) {
            device.rewind(count)
            added.insert(contentsOf: taken.suffix(count).map(\.shape), at: 0)
            taken.removeLast(count)
        }

        mutating func giveBack(at index: Int) {
            var (head, shape) = taken.remove(at: index)
            let room = shape.writable.reduce(0) { $0 + Int($1.byteCount) }
            shape.writtenByteCount = UInt32(generator.int(0...room))
            device.addUsed(head: head, writtenByteCount: shape.writtenByteCount)
            returned.append(shape)
        }

        mutating func pop() throws {
            guard let (token, writtenByteCount) = try driver.popUsed() else { return }
            let shape = returned.removeFirst()
            #expect(token == shape.token)
            #expect(writtenByteCount == shape.writtenByteCount)
        }
    }

    @Test("random operations of both halves behave as a queue", arguments: 0..<200)
    func property(seed: UInt64) throws {
        var pair = try Pair(seed: seed, size: 1 << Int(seed % 9))
        for _ in 0..<3000 {
            switch pair.generator.int(0...9) {
            case 0...2: pair.add()
            case 3: pair.driver.publish()
            case 4, 5: try pair.take()
            case 6 where !pair.taken.isEmpty: pair.giveBack(at: pair.generator.int(0...(pair.taken.count - 1)))
            case 7: pair.device.publishUsed()
            case 8: try pair.pop()
            // Chains at the end that were taken after every returned one.
            case 9 where !pair.taken.isEmpty && pair.generator.chance(20):
                try rewindAndReturn(&pair)
            default: break
            }
        }
        try finish(&pair)
        #expect(pair.added.isEmpty && pair.taken.isEmpty && pair.returned.isEmpty, "seed \(seed)")
        #expect(pair.driver.freeDescriptorCount == pair.queue.size, "seed \(seed)")
        #expect(pair.driver.inFlightCount == 0, "seed \(seed)")
        #expect(Int(pair.device.nextAvailableIndex) == pair.nextToken & 0xffff, "seed \(seed)")
    }

    /// Returns all chains but some that have just been taken, and puts those back.
    func rewindAndReturn(_ pair: inout Pair) throws {
        let before = pair.taken.count
        for _ in 0..<pair.generator.int(0...4) { try pair.take() }
        let count = pair.generator.int(0...(pair.taken.count - before))
        pair.rewind(count)
    }

    func finish(_ pair: inout Pair) throws {
        pair.driver.publish()
        while !pair.added.isEmpty { try pair.take() }
        while !pair.taken.isEmpty { pair.giveBack(at: 0) }
        pair.device.publishUsed()
        while !pair.returned.isEmpty { try pair.pop() }
    }

    @Test("the indices wrap at 65536 unnoticed", arguments: [1, 2, 64, 256])
    func wrap(size: Int) throws {
        let queue = try TestQueue(size: size)
        var driver = queue.driver()
        var device = queue.device()
        var list = SegmentList(capacity: 512)
        let buffer = GuestBuffer(guestAddress: queue.dataAddress, byteCount: 4)
        let batch = max(1, size - 1)
        var sent = 0
        var received = 0
        while received < 140_000 {
            for _ in 0..<batch {
                if driver.add(readable: [], writable: [buffer], token: sent) { sent += 1 }
            }
            driver.publish()
            list.removeAll()
            while case .chain(let chain) = try device.next(memory: queue.memory, into: &list) {
                device.addUsed(head: chain.head, writtenByteCount: UInt32(received & 3))
            }
            device.publishUsed()
            while let used = try driver.popUsed() {
                if used.token != received { Issue.record("token \(used.token) instead of \(received)") }
                received += 1
            }
        }
        #expect(sent == received)
    }

    @Test("a queue of the largest size can be full")
    func largestSize() throws {
        let queue = try TestQueue(size: 32768)
        var driver = queue.driver()
        var device = queue.device()
        var list = SegmentList(capacity: 32768)
        let buffer = GuestBuffer(guestAddress: queue.dataAddress, byteCount: 4)
        for turn in 0..<3 {
            for token in 0..<32768 where !driver.add(readable: [buffer], writable: [], token: token) {
                Issue.record("no room for \(token)")
            }
            #expect(driver.add(readable: [buffer], writable: [], token: 0) == false)
            driver.publish()
            #expect(device.availableCount == 32768)
            list.removeAll()
            var count = 0
            while case .chain(let chain) = try device.next(memory: queue.memory, into: &list) {
                device.addUsed(head: chain.head, writtenByteCount: 0)
                count += 1
            }
            #expect(count == 32768, "turn \(turn)")
            device.publishUsed()
            while try driver.popUsed() != nil {}
            #expect(driver.freeDescriptorCount == 32768)
        }
    }
}
