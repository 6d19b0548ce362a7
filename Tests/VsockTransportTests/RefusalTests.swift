// SPDX-License-Identifier: Apache-2.0
//
// What the device refuses, and that it says so at once: a guest that hears nothing waits two seconds.

import Testing
import VsockCore
import VsockSystem
import VsockTestSupport
import VsockWire

@testable import VsockTransport

@Suite("Refusals")
struct RefusalTests {
    /// Sends a request that must be refused; the reset.
    private func refusal(_ guest: PacketGuest, _ request: PacketHeader) throws -> PacketHeader {
        try guest.send(request)
        let packet = try guest.next()
        #expect(packet.payload.isEmpty)
        let header = packet.header
        #expect(header.operation == .reset)
        #expect(header.type == request.type)
        #expect(header.sourceCID == request.destinationCID && header.destinationCID == request.sourceCID)
        #expect(
            header.sourcePort == request.destinationPort && header.destinationPort == request.sourcePort)
        return header
    }

    @Test("no listener: a reset within 100 ms")
    func noListener() throws {
        let device = try TestDevice()
        let guest = PacketGuest(try device.driver())
        // The machine may be busy with something else for one of them.
        let times = try (0..<5).map { _ in
            let start = MonotonicClock.now()
            _ = try refusal(guest, guest.packet(.request))
            _ = try refusal(guest, guest.packet(.request, type: .seqpacket))
            return MonotonicClock.now() - start
        }
        #expect(try #require(times.min()) < 100_000_000)
        #expect(try device.connectionCount() == 0)
    }

    @Test("a host program that listens with the other type")
    func otherType() throws {
        let device = try TestDevice()
        let guest = PacketGuest(try device.driver())
        let stream = try device.listen(.stream, port: 1)
        let records = try device.listen(.seqpacket, port: 2)
        _ = try refusal(guest, guest.packet(.request, type: .seqpacket, to: 1))
        _ = try refusal(guest, guest.packet(.request, type: .stream, to: 2))
        #expect(try stream.accept() == nil)
        #expect(try records.accept() == nil)
        #expect(device.log.contains("guest connection refused"))
    }

    @Test("the socket file of a listener that has died, a file that is none, and a directory")
    func noSockets() throws {
        let device = try TestDevice()
        let guest = PacketGuest(try device.driver())
        try leaveStaleSocket(at: "\(device.hybridPath)_1")
        device.directory.createFile("v_2")
        for port: UInt32 in 1...2 { _ = try refusal(guest, guest.packet(.request, to: port)) }
        #expect(try device.counters().refusedByHost == 2)
    }

    @Test("a listener whose backlog is full")
    func backlog() throws {
        let device = try TestDevice()
        let guest = PacketGuest(try device.driver())
        let listener = try device.listen(.stream, port: 5000, backlog: 1)
        var accepted = 0
        while true {
            try guest.send(guest.packet(.request, from: 100 + UInt32(accepted)))
            let answer = try guest.next().header.operation
            guard answer == .response else {
                #expect(answer == .reset)
                break
            }
            accepted += 1
            try #require(accepted < 100)
        }
        #expect(accepted > 0)
        let first = try listener.take()
        try guest.connect(from: 5)
        #expect(try first.ready(.readable).isEmpty)
    }

    @Test("context IDs that are not the host's", arguments: [0, 1, 3, 7, 0xffff_ffff, 1 << 32 | 2] as [UInt64])
    func otherDestination(cid: UInt64) throws {
        let device = try TestDevice()
        let guest = PacketGuest(try device.driver())
        let listener = try device.listen(.stream, port: 5000)
        var request = guest.packet(.request)
        request.destinationCID = cid
        _ = try refusal(guest, request)
        #expect(try listener.accept() == nil)
    }

    @Test("socket types that do not exist, whose number is repeated", arguments: [0, 3, 4, 255, 0xffff] as [UInt16])
    func unknownType(type: UInt16) throws {
        let device = try TestDevice()
        let guest = PacketGuest(try device.driver())
        let listener = try device.listen(.stream, port: 5000)
        for operation in [Operation.request, .readWrite, .shutdown] {
            _ = try refusal(guest, guest.packet(operation, type: SocketType(rawValue: type)))
        }
        #expect(try listener.accept() == nil)
    }

    @Test("packets of no connection are answered with a reset, whatever they are, but for resets")
    func noConnection() throws {
        let device = try TestDevice()
        let guest = PacketGuest(try device.driver())
        for operation: UInt16 in 0...12 where operation != Operation.request.rawValue {
            let packet = guest.packet(Operation(rawValue: operation))
            if packet.operation == .reset {
                try guest.send(packet)
                #expect(try guest.packetsUntilFence() == [])
            } else {
                _ = try refusal(guest, packet)
            }
        }
    }

    @Test("a reset is never answered: of an unknown type, to another context ID, or of a live connection")
    func resets() throws {
        let device = try TestDevice()
        let guest = PacketGuest(try device.driver())
        let listener = try device.listen(.stream, port: 5000)
        var elsewhere = guest.packet(.reset)
        elsewhere.destinationCID = 7
        try guest.send(elsewhere)
        try guest.send(guest.packet(.reset, type: SocketType(rawValue: 9)))
        try guest.send(guest.packet(.reset))
        try guest.connect()
        let host = try listener.take()
        try guest.send(guest.packet(.reset))
        #expect(try guest.packetsUntilFence() == [])
        #expect(try host.receive() == nil)
    }

    @Test(
        "packets with a source that is not the guest's are dropped without a word",
        arguments: [
            0, 2, 4, 0xffff_ffff, 1 << 32 | 3, 1 << 63 | 3,
        ] as [UInt64])
    func foreignSource(cid: UInt64) throws {
        let device = try TestDevice()
        let guest = PacketGuest(try device.driver())
        let listener = try device.listen(.stream, port: 5000)
        for operation in [Operation.request, .readWrite, .reset, .shutdown] {
            var packet = guest.packet(operation)
            packet.sourceCID = cid
            try guest.send(packet)
        }
        #expect(try guest.packetsUntilFence() == [])
        #expect(try listener.accept() == nil)
    }

    @Test(
        "an operation that does not belong to an established connection ends it at both ends",
        arguments: [
            0, 1, 2, 8, 9, 10, 0xffff,
        ] as [UInt16])
    func unknownOperation(operation: UInt16) throws {
        let device = try TestDevice()
        let guest = PacketGuest(try device.driver())
        let listener = try device.listen(.stream, port: 5000)
        try guest.connect()
        let host = try listener.take()
        try guest.send(guest.packet(Operation(rawValue: operation)))
        #expect(try guest.next().header.operation == .reset)
        #expect(try host.receive() == nil)
        #expect(try device.connectionCount() == 0)
        #expect(device.log.contains("connection reset", "unknownOperation"))
    }

    @Test("a guest that sends more than its credit ends its connection, and its data goes no further")
    func creditExceeded() throws {
        let device = try TestDevice { $0.bufferByteCount = 4096 }
        let guest = PacketGuest(try device.driver())
        let listener = try device.listen(.stream, port: 5000)
        try guest.connect()
        let host = try listener.take()
        try guest.send(guest.packet(.readWrite), payload: pattern(4097))
        #expect(try guest.next().header.operation == .reset)
        #expect(try host.receive() == nil)
        #expect(device.log.contains("connection reset", "creditExceeded"))
    }

    @Test("a connection's packets of the other type are refused, and the connection goes on")
    func typeOfConnection() throws {
        let device = try TestDevice()
        let guest = PacketGuest(try device.driver())
        let listener = try device.listen(.stream, port: 5000)
        try guest.connect()
        let host = try listener.take()
        try guest.send(guest.packet(.readWrite, type: .seqpacket), payload: [1])
        let reset = try guest.next().header
        #expect(reset.operation == .reset && reset.type == .seqpacket)
        try guest.send(guest.packet(.readWrite), payload: [2])
        #expect(try host.receive() == [2])
    }

    @Test(
        "seqpacket=off, and standard for a driver that does not accept it: seqpacket is refused, streams are not",
        arguments: [SeqpacketMode.off, .standard])
    func seqpacketOff(mode: SeqpacketMode) throws {
        let device = try TestDevice { $0.seqpacket = mode }
        let driver = try device.driver { $0.acceptsSeqpacket = mode == .off }
        #expect(!driver.features.contains(.seqpacket))
        let guest = PacketGuest(driver)
        let records = try device.listen(.seqpacket, port: 5001)
        let stream = try device.listen(.stream, port: 5000)
        _ = try refusal(guest, guest.packet(.request, type: .seqpacket, to: 5001))
        #expect(try records.accept() == nil)
        try guest.connect()
        _ = try stream.take()
    }

    @Test("garbage in place of packets never ends the device")
    func garbage() throws {
        let device = try TestDevice()
        let driver = try device.driver()
        let guest = PacketGuest(driver)
        let listener = try device.listen(.stream, port: 5000)
        let seed: UInt64 = 0x5eed_0003
        var random = PRNG(seed: seed)
        for _ in 0..<3000 {
            var bytes = (0..<random.within(1...120)).map { _ in UInt8(truncatingIfNeeded: random.next()) }
            if bytes.count >= 44, random.chance(percent: 80) {
                // Nearly a packet: addresses, type and operation that exist.
                var header = guest.packet(
                    Operation(rawValue: UInt16(random.within(0...10))),
                    type: SocketType(rawValue: UInt16(random.within(1...2))), from: UInt32(random.below(4)),
                    to: random.chance(percent: 50) ? 5000 : UInt32(random.below(4)), flags: UInt32(random.below(4)))
                header.payloadByteCount = UInt32(random.below(100))
                header.bufferAllocation = UInt32(truncatingIfNeeded: random.next())
                header.forwardedCount = UInt32(truncatingIfNeeded: random.next())
                bytes.replaceSubrange(0..<44, with: header.encoded)
            }
            while !(try driver.transmitRaw(bytes)) {
                driver.flush()
                try driver.receive { _, _ in }
            }
            if random.chance(percent: 20) { driver.flush() }
            while let _ = try listener.accept() {}
        }
        driver.flush()
        #expect(try device.inspect { $0.isReady }, "seed \(seed)")
        let other = try device.listen(.stream, port: 6000)
        try guest.send(guest.packet(.request, from: 77, to: 6000))
        while try guest.next().header.destinationPort != 77 {}
        _ = try other.take()
    }
}
