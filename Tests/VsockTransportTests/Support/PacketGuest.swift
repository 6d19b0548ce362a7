// SPDX-License-Identifier: Apache-2.0
//
// A guest that says exactly the packets that a test wants, right or wrong.

import VsockSystem
import VsockTestSupport
import VsockTransport
import VsockWire

/// A packet from the device.
struct Packet: Equatable, Sendable {
    var header: PacketHeader
    var payload: [UInt8]
}

/// Packets over a driver, without connections.
final class PacketGuest {
    static let cid: UInt64 = 3
    private static let bufferByteCount: UInt32 = 262_144

    let driver: VsockDriver
    private var received: [Packet] = []
    private var fencePort: UInt32 = 0xf000_0000

    init(_ driver: VsockDriver) { self.driver = driver }

    /// A packet from this guest to a port of the host.
    func packet(
        _ operation: Operation, type: SocketType = .stream, from port: UInt32 = 1000, to hostPort: UInt32 = 5000,
        flags: UInt32 = 0, forwardedCount: UInt32 = 0
    ) -> PacketHeader {
        PacketHeader(
            sourceCID: Self.cid, destinationCID: 2, sourcePort: port, destinationPort: hostPort, type: type,
            operation: operation, flags: flags, bufferAllocation: Self.bufferByteCount,
            forwardedCount: forwardedCount)
    }

    /// A packet in the other direction of one from the device.
    func reply(
        to header: PacketHeader, _ operation: Operation, flags: UInt32 = 0, forwardedCount: UInt32 = 0
    ) -> PacketHeader {
        packet(
            operation, type: header.type, from: header.destinationPort, to: header.sourcePort, flags: flags,
            forwardedCount: forwardedCount)
    }

    /// Sends a packet; its length is that of the payload.
    func send(_ header: PacketHeader, payload: [UInt8] = []) throws {
        var header = header
        header.payloadByteCount = UInt32(payload.count)
        let deadline = MonotonicClock.now() + testDeadline
        while !(try payload.withUnsafeBytes { try driver.transmit(header, payload: $0) }) {
            guard MonotonicClock.now() < deadline else { throw TestFailure("the device takes no packets") }
            driver.flush()
        }
        driver.flush()
    }

    /// The next packet.
    func next() throws -> Packet {
        let deadline = MonotonicClock.now() + testDeadline
        while received.isEmpty {
            guard MonotonicClock.now() < deadline else { throw TestFailure("the device is silent") }
            _ = try driver.wait(timeoutNanoseconds: 100_000_000)
            try take()
        }
        return received.removeFirst()
    }

    /// The packets that the device sends in answer to all that was sent before: a packet is sent that it must
    /// answer, and it answers in order.
    func packetsUntilFence() throws -> [Packet] {
        fencePort += 1
        try send(packet(.creditRequest, from: fencePort, to: 1))
        var packets: [Packet] = []
        while true {
            let packet = try next()
            if packet.header.destinationPort == fencePort { return packets }
            packets.append(packet)
        }
    }

    /// Connects to a host program's listener.
    func connect(type: SocketType = .stream, from port: UInt32 = 1000, to hostPort: UInt32 = 5000) throws {
        try send(packet(.request, type: type, from: port, to: hostPort))
        while true {
            let answer = try next().header
            if answer.operation == .response { return }
            // Credit of an earlier connection of these ports may still be under way.
            guard answer.operation == .creditUpdate else { throw TestFailure("no connection: \(answer.operation)") }
        }
    }

    private func take() throws {
        try driver.receive { header, payload in
            self.received.append(Packet(header: header, payload: Array(payload)))
        }
    }
}
