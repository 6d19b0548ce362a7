// SPDX-License-Identifier: Apache-2.0
//
// Who closes first, and what was under way then: data that was sent before a close arrives, and nothing of a
// connection stays.

import Testing
import VsockCore
import VsockSystem
import VsockWire

@testable import VsockTransport

@Suite("Close orders")
struct CloseOrderTests {
    /// One row of the table.
    struct Order: Sendable, CustomTestStringConvertible {
        let type: UnixSocketType
        let first: ConnectedPair.Initiator
        /// Shuts its sending side before it closes.
        let shutsFirst: Bool
        /// The first one has data under way to the second.
        let hasDataToSecond: Bool
        /// The second one has data under way to the first, which does not read it.
        let hasDataToFirst: Bool

        var testDescription: String {
            "\(type): \(first) \(shutsFirst ? "shuts, closes" : "closes")"
                + (hasDataToSecond ? ", its data on the way" : "") + (hasDataToFirst ? ", data for it on the way" : "")
        }

        static let all = [UnixSocketType.stream, .seqpacket].flatMap { type in
            ConnectedPair.Initiator.allCases.flatMap { first in
                (0..<8).map { bits in
                    Order(
                        type: type, first: first, shutsFirst: bits & 1 != 0, hasDataToSecond: bits & 2 != 0,
                        hasDataToFirst: bits & 4 != 0)
                }
            }
        }
    }

    @Test("the second one gets all that the first one sent, then the end; nothing stays", arguments: Order.all)
    func table(order: Order) throws {
        let device = try TestDevice()
        let guest = try device.guest()
        for initiator in ConnectedPair.Initiator.allCases {
            let pair = try ConnectedPair(device, guest, order.type, from: initiator)
            let records = order.hasDataToSecond ? (1...10).map { pattern($0 * 700, seed: $0) } : []
            if order.first == .host {
                if order.hasDataToFirst { for index in 1...5 { try pair.send(pattern(5000, seed: index)) } }
                for record in records { try pair.host.send(record) }
                if order.shutsFirst { try pair.host.shutdown(.send) }
                pair.host.close()
                var received: [[UInt8]] = []
                while let bytes = try pair.receive() { received.append(bytes) }
                #expect(flat(received) == flat(records))
                if order.type == .seqpacket { #expect(received == records) }
                try pair.waitForShutdown(.both)
                pair.socket.close()
            } else {
                if order.hasDataToFirst { for index in 1...5 { try pair.host.send(pattern(5000, seed: index)) } }
                for record in records { try pair.send(record) }
                if order.shutsFirst { try pair.socket.shutdown(.send) }
                pair.socket.close()
                let received = try pair.host.receiveRecordsToEnd()
                #expect(flat(received) == flat(records))
                if order.type == .seqpacket { #expect(received == records) }
                try pair.host.waitForHangUp()
                pair.host.close()
            }
            try eventually { guest.connectionCount == 0 }
            try eventually { try device.inspect { $0.host.sockets.allSatisfy { $0 == nil } } }
            try eventually { try device.connectionCount() == 0 }
        }
    }

    // MARK: Host programs that vanish

    @Test(
        "a host program is killed in the middle of a transfer: the guest sees EPIPE and the end",
        arguments: [
            UnixSocketType.stream, .seqpacket,
        ])
    func killed(type: UnixSocketType) throws {
        let device = try TestDevice()
        let guest = try device.guest()
        let pair = try ConnectedPair(device, guest, type, from: .guest)
        try pair.host.send([1, 2, 3])
        let host = pair.host
        let victim = try Background {
            for _ in 0..<5 { _ = try host.receive(upTo: 10_000) }
            host.close()
        }
        var failure: SocketError?
        do {
            while true { try pair.send(pattern(10_000)) }
        } catch let error as SocketError {
            failure = error
        }
        try victim.value()
        #expect(failure == .brokenPipe)
        // What it had sent is still there.
        #expect(try pair.receive() == [1, 2, 3])
        #expect(try pair.receive() == nil)
        try pair.waitForShutdown(.both)
        pair.socket.close()
        try eventually { guest.connectionCount == 0 }
        try eventually { try device.connectionCount() == 0 }
    }

    @Test("a guest that does not end a closed connection is reset when its time has passed")
    func closeTimeout() throws {
        let device = try TestDevice { $0.closeTimeoutNanoseconds = 50_000_000 }
        let guest = PacketGuest(try device.driver())
        let listener = try device.listen(.stream, port: 5000)
        try guest.connect()
        let start = MonotonicClock.now()
        try listener.take().close()
        let shutdown = try guest.next().header
        #expect(shutdown.operation == .shutdown)
        #expect(shutdown.flags == ShutdownFlags.both.rawValue)
        #expect(try guest.next().header.operation == .reset)
        #expect(MonotonicClock.now() - start >= 50_000_000)
        try eventually { try device.connectionCount() == 0 }
    }

    // MARK: Slow host programs

    @Test(
        "the guest closes while a slow host program has data to read: it gets every byte, then the end",
        arguments: [
            UnixSocketType.stream, .seqpacket,
        ])
    func lingering(type: UnixSocketType) throws {
        let device = try TestDevice()
        let guest = try device.guest()
        let pair = try ConnectedPair(device, guest, type, from: .guest)
        var sent: [[UInt8]] = []
        while try device.inspect({ $0.host.sockets.contains { $0?.backlog.isEmpty == false } }) == false {
            sent.append(pattern(20_000, seed: sent.count))
            try pair.send(sent[sent.count - 1])
        }
        pair.socket.close()
        let host = pair.host
        let reader = try Background { try host.receiveRecordsToEnd() }
        let received = try reader.value()
        #expect(flat(received) == flat(sent))
        if type == .seqpacket { #expect(received == sent) }
        try eventually { guest.connectionCount == 0 }
        try eventually { try device.connectionCount() == 0 }
    }

    @Test(
        "the guest resets instead: the host program still gets what the device has taken",
        arguments: [
            SocketType.stream, .seqpacket,
        ])
    func lingeringAfterReset(type: SocketType) throws {
        let device = try TestDevice()
        let guest = PacketGuest(try device.driver())
        let listener = try device.listen(type == .stream ? .stream : .seqpacket, port: 5000)
        try guest.connect(type: type)
        let host = try listener.take()
        let sent = try fillBacklog(device, guest, type: type)
        try guest.send(guest.packet(.reset, type: type))
        // The pair of ports is free at once, while the old connection's data still waits.
        try eventually { try device.connectionCount() == 0 }
        try guest.connect(type: type)
        let second = try listener.take()
        #expect(try device.inspect { $0.host.lingering.count } == 1)
        #expect(try flat(host.receiveRecordsToEnd()) == flat(sent))
        try guest.send(
            guest.packet(.readWrite, type: type, flags: SequenceFlags.endOfMessage.rawValue), payload: [7])
        #expect(try second.receive() == [7])
        #expect(try device.inspect { $0.host.lingering.count } == 0)
    }

    @Test("data that waits for a slow host program of an earlier guest does not touch the next guest's connections")
    func lingeringAcrossGuests() throws {
        let device = try TestDevice()
        let listener = try device.listen(.stream, port: 5000)
        var guest: PacketGuest? = PacketGuest(try device.driver())
        try guest?.connect()
        let host = try listener.take()
        let sent = try fillBacklog(device, try #require(guest), type: .stream)
        guest = nil
        try eventually { try device.inspect { !$0.isReady } }
        let next = PacketGuest(try device.driver())
        try next.connect()
        let second = try listener.take()
        #expect(try flat(host.receiveRecordsToEnd()) == flat(sent))
        try next.send(next.packet(.readWrite), payload: [7])
        #expect(try second.receive() == [7])
        // The credit of the new connection is its own.
        try next.send(next.packet(.creditRequest))
        #expect(try next.next().header.forwardedCount == 1)
    }

    /// Sends until the device keeps something for a host program that does not read.
    private func fillBacklog(_ device: TestDevice, _ guest: PacketGuest, type: SocketType) throws -> [[UInt8]] {
        var sent: [[UInt8]] = []
        while try device.inspect({ $0.host.sockets.contains { $0?.backlog.isEmpty == false } }) == false {
            sent.append(pattern(20_000, seed: sent.count))
            try guest.send(
                guest.packet(.readWrite, type: type, flags: SequenceFlags.endOfMessage.rawValue),
                payload: sent[sent.count - 1])
        }
        return sent
    }

    @Test(
        "records of a host program that nobody reads any more, even empty ones, do not cost it what it has yet to read")
    func unreadRecords() throws {
        let device = try TestDevice()
        let guest = PacketGuest(try device.driver())
        let listener = try device.listen(.seqpacket, port: 5000)
        var request = guest.packet(.request, type: .seqpacket)
        // No credit: what the host program sends stays in its socket.
        request.bufferAllocation = 0
        try guest.send(request)
        #expect(try guest.next().header.operation == .response)
        let host = try listener.take()
        for bytes in [[], [1], [], [], [2]] as [[UInt8]] { try host.send(bytes) }
        var data = guest.packet(.readWrite, type: .seqpacket, flags: SequenceFlags.endOfMessage.rawValue)
        data.bufferAllocation = 0
        try guest.send(data, payload: [7])
        try guest.send(guest.packet(.reset, type: .seqpacket))
        try host.waitForHangUp()
        #expect(try host.receive() == [7])
        #expect(try host.receive() == nil)
    }

    // MARK: Resets and ports

    @Test(
        "a reset by the guest ends the host program's socket at once, both ways",
        arguments: [
            UnixSocketType.stream, .seqpacket,
        ])
    func resetByGuest(type: UnixSocketType) throws {
        let device = try TestDevice()
        let guest = PacketGuest(try device.driver())
        let listener = try device.listen(type, port: 5000)
        let socketType: SocketType = type == .stream ? .stream : .seqpacket
        try guest.connect(type: socketType)
        let host = try listener.take()
        try guest.send(guest.packet(.reset, type: socketType))
        #expect(try host.receive() == nil)
        try host.waitForHangUp()
        #expect(host.send([1][...]) == .failed(.brokenPipe))
        #expect(try guest.packetsUntilFence() == [])
    }

    @Test("a pair of ports can be used again and again, however the last connection ended")
    func portReuse() throws {
        let device = try TestDevice()
        let guest = PacketGuest(try device.driver())
        let listener = try device.listen(.stream, port: 5000)
        for round in 0..<30 {
            try guest.connect(from: 1234)
            let host = try listener.take()
            try guest.send(guest.packet(.readWrite, from: 1234), payload: [UInt8(round)])
            #expect(try host.receive() == [UInt8(round)])
            switch round % 3 {
            case 0:
                try guest.send(guest.packet(.reset, from: 1234))
            case 1:
                try guest.send(guest.packet(.shutdown, from: 1234, flags: ShutdownFlags.both.rawValue))
                #expect(try guest.next().header.operation == .reset)
            default:
                host.close()
                #expect(try guest.next().header.operation == .shutdown)
                try guest.send(guest.packet(.reset, from: 1234))
            }
        }
        #expect(try guest.packetsUntilFence() == [])
        try eventually { try device.connectionCount() == 0 }
    }
}
