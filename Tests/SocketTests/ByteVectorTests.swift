// SPDX-License-Identifier: Apache-2.0
//
// What a record sent with MSG_EOR is on the wire, bit for bit: the vectors of the RFC v5 series for guest 3 and port
// 0x10000, host port 1234, "hello". From the guest's socket they are taken where its carrier gets them; from the host's
// they are read by a bare driver from the memory of its receive queue.

import Logging
import Testing
import VsockCore
import VsockSystem
import VsockWire

@testable import VsockTransport

@Suite("Byte vectors")
struct ByteVectorTests {
    /// Takes packets and answers nothing by itself.
    private final class Recorder: PacketCarrier {
        var packets: [[UInt8]] = []
        var usualCapacity: Int { 65536 }
        func capacity(wanting byteCount: Int) -> Int? { 65536 }
        func commit(_ header: PacketHeader, _ payload: UnsafeRawBufferPointer) {
            packets.append(bytes(header, payload))
        }
        func flush() {}
        func reaches(_ cid: VsockAddress.ContextID) -> Bool { true }
    }

    private static func hex(_ text: String) -> [UInt8] {
        let digits = text.filter(\.isHexDigit)
        return stride(from: 0, to: digits.count, by: 2).compactMap { offset in
            let start = digits.index(digits.startIndex, offsetBy: offset)
            return UInt8(digits[start...].prefix(2), radix: 16)
        }
    }

    private static let fromGuest = [
        hex(
            "0300000000000000 0200000000000000 00000100 d2040000 08000000 0200 0800 00000000 00000400 00000000"
                + "00000000 05000000"),
        hex(
            "0300000000000000 0200000000000000 00000100 d2040000 05000000 0200 0500 01000000 00000400 00000000"
                + "68656c6c6f"),
        hex(
            "0300000000000000 0200000000000000 00000100 d2040000 08000000 0200 0900 00000000 00000400 00000000"
                + "01000000 00000000"),
    ]

    private static func exchanged(_ packet: [UInt8]) -> [UInt8] {
        var result = packet
        for index in 0..<8 { result.swapAt(index, index + 8) }
        for index in 16..<20 { result.swapAt(index, index + 4) }
        return result
    }

    private static let hello = Array("hello".utf8)

    @Test("a record from the guest's socket")
    func guest() throws {
        let table = SocketTable(
            EndpointConfiguration(localCID: 3, peerCID: nil, framing: .rfcV5), isReady: true)
        let recorder = Recorder()
        table.carrier = recorder
        let socket = table.makeSocket(.seqpacket)
        try socket.bind(to: VsockAddress(cid: .any, port: 0x10000))
        let host = VsockAddress(cid: .host, port: 1234)
        #expect(throws: SocketError.inProgress) { try socket.connect(to: host, doesNotWait: true) }
        #expect(throws: SocketError.alreadyInProgress) { try socket.connect(to: host, doesNotWait: true) }
        let response = PacketHeader(
            sourceCID: 2, destinationCID: 3, sourcePort: 1234, destinationPort: 0x10000, type: .seqpacket,
            operation: .response, bufferAllocation: 262_144)
        table.lock.withLock { table.deliver(response, UnsafeRawBufferPointer(start: nil, count: 0)) }
        #expect(throws: SocketError.alreadyConnected) { try socket.connect(to: host) }
        recorder.packets = []
        try Self.hello.withUnsafeBytes { _ = try socket.send($0, SendOptions(endOfRecord: true)) }
        #expect(recorder.packets == Self.fromGuest)
    }

    @Test("a record from the host's socket, in the memory of the guest's receive queue")
    func host() throws {
        let path = "/tmp/vsock-vectors-\(CurrentProcess.identifier).sock"
        var configuration = VsockDeviceConfiguration(guestCID: 3, socketPath: path, hybridPath: "")
        configuration.seqpacket = .rfcV5
        var log = Logger(label: "test")
        log.logLevel = .warning
        let device = try SocketDevice(configuration, log: log)
        defer { device.stop() }
        let listener = device.makeSocket(.seqpacket)
        try listener.bind(to: VsockAddress(cid: .any, port: 1234))
        try listener.listen(backlog: 1)
        let driver = try VsockDriver(path: path)
        var header = PacketHeader(
            sourceCID: 3, destinationCID: 2, sourcePort: 0x10000, destinationPort: 1234, type: .seqpacket,
            operation: .request, bufferAllocation: 262_144)
        _ = try driver.transmit(header)
        driver.flush()
        var packets = try receive(driver, count: 1)
        #expect(packets.first?[30] == 2, "RESPONSE")
        let socket = try listener.accept(doesNotWait: true)
        try Self.hello.withUnsafeBytes { _ = try socket.send($0, SendOptions(endOfRecord: true)) }
        packets = try receive(driver, count: 3)
        // The same with the addresses exchanged.
        #expect(packets == Self.fromGuest.map(Self.exchanged))
        // What the guest sends is credited when the record is read: 8 + 5 + 8 bytes.
        for (packet, operation) in zip(Self.fromGuest, [8, 5, 9] as [UInt16]) {
            header.operation = Operation(rawValue: operation)
            header.payloadByteCount = UInt32(packet.count - 44)
            header.flags = operation == 5 ? 1 : 0
            try packet[44...].withUnsafeBytes { _ = try driver.transmit(header, payload: $0) }
        }
        driver.flush()
        var buffer = [UInt8](repeating: 0, count: 16)
        let result = try buffer.withUnsafeMutableBytes { try socket.receive(into: $0) }
        #expect(result == ReceiveResult(count: 5, fullLength: 5, endOfRecord: true))
        header.payloadByteCount = 0
        header.flags = 0
        header.operation = .creditRequest
        _ = try driver.transmit(header)
        driver.flush()
        #expect(
            try receive(driver, count: 1) == [
                Self.hex(
                    "0200000000000000 0300000000000000 d2040000 00000100 00000000 0200 0600 00000000 00000400 15000000")
            ])
    }

    private func receive(_ driver: VsockDriver, count: Int) throws -> [[UInt8]] {
        var packets: [[UInt8]] = []
        while packets.count < count {
            try #require(try driver.wait(timeoutNanoseconds: 5_000_000_000))
            try driver.receive { packets.append(bytes($0, $1)) }
        }
        return packets
    }
}

private func bytes(_ header: PacketHeader, _ payload: UnsafeRawBufferPointer) -> [UInt8] {
    var result = [UInt8](repeating: 0, count: PacketHeader.byteCount)
    result.withUnsafeMutableBytes { header.write(to: $0) }
    return result + payload
}
