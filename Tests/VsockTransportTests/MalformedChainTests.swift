// SPDX-License-Identifier: Apache-2.0
//
// Chains that hold no packet go back with length 0 and cost nobody anything. A ring that breaks the rules stops the
// device, which tells the monitor, and goes on when it has been set up anew.

import Testing
import VhostUser
import VirtioQueue
import VsockSystem
import VsockTestSupport
import VsockWire

@testable import VsockTransport

@Suite("Malformed chains and broken queues")
struct MalformedChainTests {
    private static let transmit = VsockDevice.QueueIndex.transmit
    private static let receive = VsockDevice.QueueIndex.receive

    /// What is wrong with a chain.
    enum Defect: CaseIterable, Sendable {
        case empty, shortHeader, shortHeaderInPieces, lengthBeyondChain, lengthBeyondLimit, lengthMaximum
        case outsideMemory, partlyOutsideMemory, addressOverflow, nullAddress, onlyWritable, readableAfterWritable
        case loop, nextOutOfRange, indirectNotNegotiated
    }

    @Test(
        "a chain without a packet is returned with length 0, and the next packet is served", arguments: Defect.allCases)
    func malformed(defect: Defect) throws {
        let device = try TestDevice()
        let guest = try RingGuest(device)
        let listener = try device.listen(.stream, port: 5000)
        for _ in 0..<4 { try guest.post([100]) }
        try guest.send(guest.packet(.request))
        #expect(try guest.next()?.header.operation == .response)
        #expect(try guest.used(Self.transmit).byteCount == 0)
        let host = try listener.take()

        let head = offer(defect, guest)
        guest.kick(Self.transmit)
        let used = try guest.used(Self.transmit)
        #expect(used.head == UInt32(head))
        #expect(used.byteCount == 0)
        #expect(try device.inspect { $0.counters.malformedChains } == 1)

        guest.rings[Self.transmit].nextDescriptor = 40
        try guest.send(guest.packet(.readWrite, payloadByteCount: 3), payload: [1, 2, 3])
        #expect(try host.receive() == [1, 2, 3])
        #expect(try device.inspect { $0.isReady })
    }

    private func offer(_ defect: Defect, _ guest: RingGuest) -> UInt16 {
        func packet(_ byteCount: Int, declared: Int? = nil) -> Descriptor {
            let header = guest.packet(.readWrite, payloadByteCount: declared ?? byteCount)
            return guest.place(header.encoded + pattern(byteCount))
        }
        func submit(_ chain: [Descriptor]) -> UInt16 { guest.rings[Self.transmit].submit(chain) }
        func moved(_ address: UInt64, _ byteCount: UInt32 = 54) -> Descriptor {
            Descriptor(address: address, byteCount: byteCount, flags: 0, next: 0)
        }
        let end = RingGuest.guestBase + guest.region.byteCount
        switch defect {
        case .empty: return submit([guest.place([])])
        case .shortHeader: return submit([guest.place(Array(guest.packet(.readWrite).encoded[..<43]))])
        case .shortHeaderInPieces: return submit([guest.place([1]), guest.place([2]), guest.place([3])])
        case .lengthBeyondChain: return submit([packet(10, declared: 11)])
        case .lengthBeyondLimit: return submit([packet(65_537)])
        case .lengthMaximum: return submit([packet(10, declared: Int(UInt32.max))])
        case .outsideMemory: return submit([moved(end)])
        case .partlyOutsideMemory: return submit([moved(end - 50)])
        case .addressOverflow: return submit([moved(.max - 10)])
        case .nullAddress: return submit([moved(0)])
        case .onlyWritable: return submit([guest.room(100)])
        case .readableAfterWritable: return submit([guest.room(100), packet(10)])
        case .indirectNotNegotiated: return submit([guest.indirect([packet(10)])])
        case .loop, .nextOutOfRange:
            var first = packet(10)
            first.flags = Descriptor.nextFlag
            first.next = defect == .loop ? 30 : 1000
            guest.rings[Self.transmit].write(first, at: 30)
            guest.rings[Self.transmit].offer([30])
            return 30
        }
    }

    @Test("indirect tables: of a wrong length, nested, or with a chain behind them", arguments: 0..<6)
    func malformedIndirect(index: Int) throws {
        let device = try TestDevice()
        let guest = try RingGuest(device, indirect: true)
        try guest.post([100])
        let packet = guest.place(guest.packet(.request, to: 1).encoded)
        var reference = guest.indirect([packet, guest.place([])])
        var chain: [Descriptor] = []
        switch index {
        case 0: reference.byteCount = 0
        case 1: reference.byteCount = 17
        case 2: reference.byteCount = UInt32.max & ~15
        case 3: reference.address = RingGuest.guestBase + guest.region.byteCount - 16
        case 4: reference = guest.indirect([guest.indirect([packet])])
        default: chain = [packet]
        }
        let head = guest.rings[Self.transmit].submit([reference] + chain)
        guest.kick(Self.transmit)
        let used = try guest.used(Self.transmit)
        #expect(used == (UInt32(head), 0))
        #expect(try device.inspect { $0.counters.malformedChains } == 1)
        try guest.send(guest.packet(.request, from: 77, to: 1), isIndirect: true)
        #expect(try guest.next()?.header.destinationPort == 77)
    }

    @Test("malformed receive chains come back with length 0 and keep nothing waiting")
    func malformedReceive() throws {
        let device = try TestDevice()
        let guest = try RingGuest(device)
        var outside = guest.room(100)
        outside.address = 0
        guest.rings[Self.receive].submit([outside])
        var loop = guest.room(100)
        loop.flags |= Descriptor.nextFlag
        loop.next = 60
        guest.rings[Self.receive].write(loop, at: 60)
        guest.rings[Self.receive].offer([60])
        try guest.post([100])
        try guest.send(guest.packet(.request, to: 1))
        #expect(try guest.used(Self.receive).byteCount == 0)
        #expect(try guest.used(Self.receive) == (60, 0))
        #expect(try guest.next()?.header.operation == .reset)
    }

    /// How a ring breaks the rules.
    enum Breach: CaseIterable, Sendable { case indexJump, headOutOfRange }

    @Test(
        "a broken queue stops the device and is reported; set up anew, it goes on",
        arguments: [transmit, receive], Breach.allCases)
    func brokenQueue(queue: Int, breach: Breach) throws {
        let device = try TestDevice()
        let guest = try RingGuest(device)
        let listener = try device.listen(.stream, port: 5000)
        for _ in 0..<4 { try guest.post([100]) }
        try guest.send(guest.packet(.request))
        #expect(try guest.next()?.header.operation == .response)
        let host = try listener.take()
        switch breach {
        case .indexJump:
            let ring = guest.rings[queue]
            ring.available.releaseIndex(ring.availableIndex &+ UInt16(ring.size) &+ 1)
        case .headOutOfRange:
            if queue == Self.receive {
                // Behind those that were posted before.
                for port: UInt32 in 1...4 { try guest.send(guest.packet(.request, from: port, to: 1)) }
                for _ in 0..<3 { _ = try guest.next() }
            }
            guest.rings[queue].offer([64])
        }
        guest.kick(queue)
        if queue == Self.receive { try? host.send(pattern(1000)) }
        let reported = try DescriptorIO.waitUntilReady(
            guest.errors[queue].rawDescriptor, for: .readable, timeoutNanoseconds: testDeadline)
        #expect(!reported.isEmpty)
        guest.errors[queue].drain()
        #expect(device.log.contains("error: queue broken"))
        #expect(try !device.inspect { $0.isReady })
        // The host's side: connections end, new ones are turned away.
        #expect(try host.receive() == nil)
        let client = try device.client()
        try client.send("CONNECT 1\n")
        #expect(try client.isClosedWithoutText())
        // It stays stopped, whatever else the monitor asks.
        try guest.frontend.perform(.getFeatures, [])
        try guest.frontend.perform(.setCall(queue: 2, hasDescriptor: true), [guest.errors[2].rawDescriptor])
        #expect(try !device.inspect { $0.isReady })
        #expect(try device.inspect { $0.counters.brokenQueues } == 1)

        for queue in 0..<2 {
            try guest.frontend.perform(.getQueueBase(queue: queue), [])
            try guest.renew(queue)
            try guest.start(queue)
        }
        for _ in 0..<4 { try guest.post([100]) }
        try guest.send(guest.packet(.request))
        #expect(try guest.next()?.header.operation == .response)
        let second = try listener.take()
        try guest.send(guest.packet(.readWrite, payloadByteCount: 1), payload: [9])
        #expect(try second.receive() == [9])
    }
}
