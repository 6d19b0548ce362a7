// SPDX-License-Identifier: Apache-2.0
//
// Sides that do not read: the other one is held back, memory stays bounded, and nothing is lost when reading begins.

import Testing
import VsockCore
import VsockSystem
import VsockTestSupport
import VsockWire

@testable import VsockTransport

@Suite("Backpressure")
struct BackpressureTests {
    /// Bytes that AF_UNIX may hold for a host program that does not read: its own buffer, twice over.
    private static let socketByteCount = 16 << 20

    @Test("a host program that never reads: the guest is blocked by credit, and nothing is lost when it reads")
    func hostDoesNotRead() throws {
        let device = try TestDevice()
        let guest = try device.guest()
        let pair = try ConnectedPair(device, guest, .stream, from: .guest)
        let other = try ConnectedPair(device, guest, .stream, from: .guest, port: 1)
        let chunk = pattern(32 * 1024)
        var sent = 0
        #expect(throws: SocketError.wouldBlock) {
            while sent < Self.socketByteCount {
                try pair.socket.send(chunk, timeoutNanoseconds: testPatience)
                sent += chunk.count
            }
        }
        // What the guest got rid of beyond what the socket holds, the device keeps: no more than it gave credit for, and
        // the batch whose credit was returned before the socket was found full.
        let held = try device.inspect { device in
            device.host.sockets.compactMap { $0?.backlog.byteCount }.reduce(0, +)
        }
        #expect(held > 0)
        let batchByteCount = 128 * 1024 + chunk.count
        #expect(held <= Int(VsockDeviceConfiguration.defaultBufferByteCount) + batchByteCount)
        // Nobody else waits.
        try other.send([1])
        #expect(try other.host.receive() == [1])
        // A part of the last chunk may have been sent.
        let host = pair.host
        let complete = sent
        let reader = try Background { try host.receive(exactly: complete) }
        let received = try reader.value()
        #expect(received.count == sent)
        for start in stride(from: 0, to: received.count, by: chunk.count) {
            #expect(Array(received[start..<(start + chunk.count)]) == chunk)
        }
    }

    @Test("the first record that a host socket does not take, with none after it, arrives when there is room")
    func lastRecordWaits() throws {
        let device = try TestDevice()
        let guest = try device.guest()
        let pair = try ConnectedPair(device, guest, .seqpacket, from: .guest)
        var sent = 0
        var isBlocked = false
        while !isBlocked {
            try pair.send(pattern(10_000, seed: sent))
            sent += 1
            // One by one, so that the device tries each by itself.
            try eventually { try device.inspect { $0.host.endpoint.counters.receivedBytes } == sent * 10_000 }
            isBlocked = try device.inspect { $0.host.sockets.contains { $0?.backlog.isEmpty == false } }
        }
        for index in 0..<sent { #expect(try pair.host.receive() == pattern(10_000, seed: index)) }
    }

    @Test("a host program that reads slowly gets all records, in order")
    func slowHost() throws {
        let device = try TestDevice()
        let guest = try device.guest()
        let pair = try ConnectedPair(device, guest, .seqpacket, from: .guest)
        var sent = 0
        // Until the device's backlog holds some of them.
        while try device.inspect({ $0.host.sockets.contains { $0?.backlog.isEmpty == false } }) == false {
            try pair.send(pattern(10_000, seed: sent))
            sent += 1
            #expect(sent < 2000)
        }
        for index in 0..<sent {
            #expect(try pair.host.receive() == pattern(10_000, seed: index))
        }
        try pair.socket.shutdown(.send)
        #expect(try pair.host.receive() == nil)
        #expect(try device.inspect { $0.host.sockets.allSatisfy { $0?.backlog.byteCount ?? 0 == 0 } })
    }

    @Test(
        "a guest that never reads: the host program's sends block, and nothing is lost",
        arguments: [
            UnixSocketType.stream, .seqpacket,
        ])
    func guestDoesNotRead(type: UnixSocketType) throws {
        let device = try TestDevice()
        let guest = try device.guest()
        let pair = try ConnectedPair(device, guest, type, from: .guest)
        var sent: [[UInt8]] = []
        // The guest takes packets off its queue, but returns no credit.
        try eventually {
            while true {
                let chunk = pattern(4096, seed: sent.count)
                guard case .count(let count) = pair.host.send(chunk[...]) else { break }
                sent.append(Array(chunk.prefix(count)))
            }
            // Full. It stays full when the guest's buffer is.
            return try device.inspect { Self.peerFreeByteCount($0) < 4096 }
        }
        #expect(sent.count > 64)
        if type == .stream {
            let expected = flat(sent)
            #expect(try pair.receive(exactly: expected.count) == expected)
        } else {
            for record in sent { #expect(try pair.receive() == record) }
        }
    }

    /// Credit of all connections.
    private static func peerFreeByteCount(_ device: VsockDevice) -> Int {
        var count = 0
        for id in device.host.endpoint.connectionIDs {
            count += device.host.endpoint.snapshot(id)?.credit.peerFreeByteCount ?? 0
        }
        return count
    }

    @Test("small packets: never more than 455 that the guest has not read, however few bytes they have")
    func packetCap() throws {
        // Linux guests from 6.12.92 on reset a connection when (packets + 1) * 576 exceeds their buffer.
        let limit = 262_144 / 576 - 1
        let device = try TestDevice()
        let guest = PacketGuest(try device.driver { $0.queueSize = 1024 })
        let listener = try device.listen(.seqpacket, port: 5000)
        try guest.connect(type: .seqpacket)
        let host = try listener.take()
        let messageCount = 3000
        let sender = try Background {
            for index in 0..<messageCount { try host.send(pattern(64, seed: index)) }
        }
        var received: [Packet] = []
        var read = 0
        while received.count < messageCount {
            // Until the device asks what has been read: then it has sent all that it will.
            while received.count < messageCount {
                let packet = try guest.next()
                if packet.header.operation == .creditRequest { break }
                guard packet.header.operation == .readWrite else { continue }
                received.append(packet)
                #expect(received.count - read <= limit)
            }
            // Reads all but a few.
            read = received.count - min(received.count, 10)
            try guest.send(
                guest.packet(.creditUpdate, type: .seqpacket, forwardedCount: UInt32(read * 64)))
        }
        try sender.value()
        for (index, packet) in received.enumerated() {
            #expect(packet.payload == pattern(64, seed: index))
            #expect(packet.header.flags == SequenceFlags.endOfMessage.rawValue)
        }
    }

    @Test("a guest without receive buffers holds everything back, and gets it when it posts some")
    func noReceiveBuffers() throws {
        let device = try TestDevice()
        let guest = try RingGuest(device)
        let listener = try device.listen(.stream, port: 5000)
        try guest.send(guest.packet(.request, to: 5000))
        let host = try listener.take()
        try host.send(pattern(1000))
        for _ in 0..<4 { try guest.post([44 + 256]) }
        #expect(try guest.next()?.header.operation == .response)
        var bytes: [UInt8] = []
        while bytes.count < 1000 {
            let packet = try #require(try guest.next())
            bytes += packet.payload
            try guest.post([44 + 256])
        }
        #expect(bytes == pattern(1000))
    }

    @Test("resets that the guest has no buffers for hold its packets back, and all are answered in the end")
    func replyLimit() throws {
        let device = try TestDevice()
        let guest = try RingGuest(device, queueSize: 1024)
        let count = 700
        for index in 0..<count {
            try guest.send(guest.packet(.creditRequest, from: 10_000 + UInt32(index), to: 1), isKicked: false)
        }
        guest.kick(VsockDevice.QueueIndex.transmit)
        // The device takes what it may owe an answer for, and no more.
        try eventually {
            try device.inspect { $0.host.endpoint.counters.receivedPackets }
                >= EndpointConfiguration.defaultMaximumReplyCount
        }
        #expect(
            try device.inspect { $0.host.endpoint.counters.receivedPackets }
                == EndpointConfiguration.defaultMaximumReplyCount)
        for _ in 0..<1000 { try guest.post([44], isKicked: false) }
        guest.kick(VsockDevice.QueueIndex.receive)
        for index in 0..<count {
            let packet = try #require(try guest.next())
            #expect(packet.header.operation == .reset)
            #expect(packet.header.destinationPort == 10_000 + UInt32(index))
        }
    }
}
