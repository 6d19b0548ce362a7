// SPDX-License-Identifier: Apache-2.0

import Testing
import VirtioQueue
import VsockCore
import VsockSystem
import VsockTestSupport
import VsockWire

@testable import VsockTransport

@Suite("Credit for a stream that flows, before it is written")
struct EarlyCreditTests {
    private static let transmit = VsockDevice.QueueIndex.transmit
    private static let receive = VsockDevice.QueueIndex.receive
    private static let payloadByteCount = 64 * 1024

    /// A guest with a stream to a host program, and one packet that it sends again and again.
    private struct Flow {
        let device: TestDevice
        let guest: RingGuest
        let host: HostProgram
        let packet: Descriptor
        let payload = pattern(EarlyCreditTests.payloadByteCount)

        init() throws {
            device = try TestDevice()
            guest = try RingGuest(device)
            let listener = try device.listen(.stream, port: 5000)
            try guest.post([64])
            try guest.send(guest.packet(.request))
            host = try listener.take()
            let response = try guest.next()
            #expect(response?.header.operation == .response)
            _ = try guest.used(EarlyCreditTests.transmit)
            packet = guest.place(
                guest.packet(.readWrite, payloadByteCount: payload.count).encoded + payload)
        }

        /// Sends the packet so often, at once.
        func send(_ count: Int) {
            let heads = (0..<count).map { _ in guest.rings[EarlyCreditTests.transmit].place([packet]) }
            guest.rings[EarlyCreditTests.transmit].offer(heads)
            guest.kick(EarlyCreditTests.transmit)
        }

        /// Waits until the device has returned as many.
        func takeBack(_ count: Int) throws {
            for _ in 0..<count { _ = try guest.used(EarlyCreditTests.transmit) }
        }

        /// Sends two packets at a time, as one batch, until the host's socket is full; returns how many.
        @discardableResult
        func fill() throws -> Int {
            var count = 0
            while try device.credit().backlogByteCount == 0 {
                send(2)
                count += 2
                try takeBack(2)
                try #require(count < 64, "the socket takes everything")
            }
            return count
        }
    }

    @Test("the guest has its credit before the host program has the bytes")
    func creditComesFirst() throws {
        let flow = try Flow()
        let count = Int(VsockDeviceConfiguration.defaultBufferByteCount) / Self.payloadByteCount
        for _ in 1...50 {
            try flow.guest.post([64])
            let index = flow.guest.rings[Self.receive].used.acquireIndex()
            flow.send(count)
            // The first byte of the packet that uses the credit up.
            _ = try flow.host.receive(exactly: (count - 1) * Self.payloadByteCount + 1)
            #expect(flow.guest.rings[Self.receive].used.acquireIndex() != index)
            _ = try flow.host.receive(exactly: Self.payloadByteCount - 1)
            let update = try #require(try flow.guest.next())
            #expect(update.header.operation == .creditUpdate)
            try flow.takeBack(count)
        }
    }

    @Test("bytes that have their credit and do not fit into the host's socket: nothing is lost or counted twice")
    func fullSocket() throws {
        let flow = try Flow()
        for _ in 0..<8 { try flow.guest.post([64]) }
        var sentCount = try flow.fill()
        let early = try flow.device.credit()
        #expect(early.backlogByteCount > 0)
        #expect(early.consumedAheadByteCount == early.backlogByteCount)
        #expect(early.unreadByteCount == 0)
        // The next batch gets none: the host program does not read.
        flow.send(2)
        sentCount += 2
        try flow.takeBack(2)
        #expect(try flow.device.credit().unreadByteCount == 2 * Self.payloadByteCount)
        for _ in 0..<sentCount {
            #expect(try flow.host.receive(exactly: Self.payloadByteCount) == flow.payload)
        }
        try eventually { try flow.device.credit().unreadByteCount == 0 }
        #expect(try flow.device.credit().consumedAheadByteCount == 0)
    }

    @Test(
        "a host program that wants no more of what has its credit: it counts as read, once",
        arguments: [false, true])
    func shutSocket(isFull: Bool) throws {
        let flow = try Flow()
        for _ in 0..<8 { try flow.guest.post([64]) }
        if isFull {
            try flow.fill()
            let credit = try flow.device.credit()
            try flow.host.shutdown(.receive)
            // There is room again, and the device finds the socket shut.
            _ = try flow.host.receive(exactly: credit.receivedByteCount - credit.backlogByteCount)
        } else {
            try flow.host.shutdown(.receive)
            flow.send(2)
            try flow.takeBack(2)
        }
        // The guest is told not to send any more.
        var last: Packet?
        while last?.header.operation != .shutdown { last = try flow.guest.next() }
        #expect(last.map { Int($0.header.forwardedCount) } == (try flow.device.credit().receivedByteCount))
    }

    @Test("the receive queue is found broken when it is to carry credit: what the guest has sent arrives")
    func brokenQueue() throws {
        let flow = try Flow()
        // A buffer for the first credit, and then a descriptor that there is not, at which nobody looks before.
        try flow.guest.post([64])
        try eventually {
            try flow.device.inspect { device in device.host.sockets.contains { $0?.isReadable == false } }
        }
        flow.guest.rings[Self.receive].offer([.max])
        let count = Int(VsockDeviceConfiguration.defaultBufferByteCount) / Self.payloadByteCount
        for turn in 1...2 {
            flow.send(count)
            for _ in 0..<count { #expect(try flow.host.receive(exactly: Self.payloadByteCount) == flow.payload) }
            if turn == 1 { try flow.takeBack(count) }
        }
        #expect(try flow.host.receive() == nil)
        #expect(try flow.device.inspect { $0.counters.brokenQueues } == 1)
        #expect(try flow.device.inspect { !$0.isReady })
        #expect(flow.device.log.contains("error: queue broken"))
        // A device that is stopped returns nothing: the request, and all packets but the last two, came back before.
        #expect(flow.guest.rings[Self.transmit].used.acquireIndex() == UInt16(1 + 2 * count - 2))
    }
}
