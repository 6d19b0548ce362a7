// SPDX-License-Identifier: Apache-2.0
//
// What a record sent with MSG_EOR is on the wire, bit for bit: the vectors of the RFC v5 series for guest 3 and port
// 0x10000, host port 1234, "hello". Each side sends with the public call, and the other side's memory is read where the
// virtqueue has it: the guest's by a device that decodes nothing, the host's by a bare driver.

import Logging
import Synchronization
import Testing
import VirtioQueue
import VsockCore
import VsockSystem
import VsockTestSupport
import VsockWire

@testable import Vsock
@testable import VsockTransport

@Suite("Byte vectors")
struct ByteVectorTests {
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

    /// The same in the other direction: the addresses change places.
    private static let fromHost = fromGuest.map { packet in
        var result = packet
        for index in 0..<8 { result.swapAt(index, index + 8) }
        for index in 16..<20 { result.swapAt(index, index + 4) }
        return result
    }

    private static let creditUpdate = hex(
        "0200000000000000 0300000000000000 d2040000 00000100 00000000 0200 0600 00000000 00000400 15000000")

    private static let hello = Array("hello".utf8)

    private static func log() -> Logger {
        var log = Logger(label: "test")
        log.logLevel = .warning
        return log
    }

    private static func options() -> WorkerOptions {
        var options = WorkerOptions()
        options.busyPollNanoseconds = 0
        return options
    }

    @Test("a record from the guest's socket, in the memory of its transmit queue")
    func guest() async throws {
        let path = "/tmp/vsock-vectors-guest-\(CurrentProcess.identifier).sock"
        var configuration = VsockDeviceConfiguration(guestCID: 3, socketPath: path, hybridPath: "")
        configuration.seqpacket = .rfcV5
        let mailbox = try LoopMailbox()
        let host = try RecordingHost(expecting: Self.fromGuest.count)
        let worker = try DeviceWorker(
            configuration, host: host, mailbox: mailbox, options: Self.options(), log: Self.log())
        defer {
            worker.stop()
            worker.join()
        }
        try #require(worker.waitUntilReady() == nil)
        let driver = VsockTransport.driver(path)
        defer { driver.close() }
        let socket = try await VsockSocket.connect(
            .seqpacket, to: VsockAddress(cid: .host, port: 1234), from: 0x10000, over: driver)
        try await socket.send(Self.hello, endOfRecord: true)
        #expect(try host.packets() == Self.fromGuest)
    }

    @Test("a record from the host's socket, in the memory of the guest's receive queue, and the credit for one")
    func host() async throws {
        let path = "/tmp/vsock-vectors-host-\(CurrentProcess.identifier).sock"
        let device = VsockTransport.device(path, guestCID: 3, seqpacket: .rfcV5)
        defer { device.close() }
        let listener = try await VsockListener.bind(.seqpacket, port: 1234, on: device)
        let driver = try VsockDriver(path: path)
        var header = PacketHeader(
            sourceCID: 3, destinationCID: 2, sourcePort: 0x10000, destinationPort: 1234, type: .seqpacket,
            operation: .request, bufferAllocation: 262_144)
        _ = try driver.transmit(header)
        driver.flush()
        var packets = try receive(driver, count: 1)
        #expect(packets.first?[30] == 2, "RESPONSE")
        let socket = try await listener.accept()
        try await socket.send(Self.hello, endOfRecord: true)
        packets = try receive(driver, count: 3)
        #expect(packets == Self.fromHost)
        // What the guest sends is credited when the record is read: 8 + 5 + 8 bytes.
        for packet in Self.fromGuest { #expect(try driver.transmitRaw(packet)) }
        driver.flush()
        var buffer = [UInt8](repeating: 0, count: 16)
        let result = try await socket.receive(into: &buffer)
        #expect(result == ReceiveResult(count: 5, fullLength: 5, endOfRecord: true))
        #expect(Array(buffer[..<5]) == Self.hello)
        header.operation = .creditRequest
        _ = try driver.transmit(header)
        driver.flush()
        #expect(try receive(driver, count: 1) == [Self.creditUpdate])
    }

    /// Packets as they lie in the receive queue's buffers.
    private func receive(_ driver: VsockDriver, count: Int) throws -> [[UInt8]] {
        var packets: [[UInt8]] = []
        while packets.count < count {
            try #require(try driver.wait(timeoutNanoseconds: testDeadline), "the device sends \(count) packets")
            try driver.receive { packets.append(bytes(in: $1.baseAddress, $1.count)) }
        }
        return packets
    }
}

/// A packet in the memory of a virtqueue, given where its payload lies: the header is right before it.
private func bytes(in payload: UnsafeRawPointer?, _ count: Int) -> [UInt8] {
    payload.map {
        Array(UnsafeRawBufferPointer(start: $0 - PacketHeader.byteCount, count: PacketHeader.byteCount + count))
    } ?? []
}

/// A host that accepts every connection and keeps what comes then as it lies in the guest's memory.
private final class RecordingHost: DeviceHost, @unchecked Sendable {
    // Unchecked: all but the packets is touched on the device's thread only.

    weak var carrier: LoopTask?
    var isDriverReady = false
    private var answers: [PacketHeader] = []
    private let expectedCount: Int
    private let recorded = Mutex<[[UInt8]]>([])
    private let isComplete: EventNotifier

    init(expecting count: Int) throws {
        expectedCount = count
        isComplete = try EventNotifier()
    }

    /// Waits until as many packets have come as are expected.
    func packets() throws -> [[UInt8]] {
        let ready = try DescriptorIO.waitUntilReady(
            isComplete.rawDescriptor, for: .readable, timeoutNanoseconds: testDeadline)
        try #require(!ready.isEmpty, "the guest sends \(expectedCount) packets")
        return recorded.withLock { $0 }
    }

    func receive(
        _ header: PacketHeader, marker: SequenceHeader?, payload: Range<Int>, in segments: borrowing SegmentList
    ) {
        guard header.operation != .request else {
            return answers.append(
                PacketHeader(
                    sourceCID: header.destinationCID, destinationCID: header.sourceCID,
                    sourcePort: header.destinationPort, destinationPort: header.sourcePort, type: header.type,
                    operation: .response, bufferAllocation: 262_144))
        }
        // The package's driver has a packet in one piece.
        let packet = payload.first.map { segments[$0] }.map { bytes(in: $0.base, $0.count) } ?? []
        let count = recorded.withLock { recorded in
            recorded.append(packet)
            return recorded.count
        }
        if count == expectedCount { isComplete.signal() }
    }

    func transmit(into buffers: GuestBuffers) throws(VirtqueueError) -> Bool {
        while let answer = answers.first {
            guard try buffers.reserve(byteCount: 0, slotLimit: 1) != nil else { return true }
            buffers.commit(answer)
            buffers.release()
            answers.removeFirst()
        }
        return false
    }

    var socketEntries: [SocketEntry] { [] }
    var canReceive: Bool { true }
    var nextDeadline: Instant? { nil }
    var hasOutput: Bool { !answers.isEmpty }
    func exclusively<Result>(_ body: () -> Result) -> Result { body() }
    func flush() {}
    func restart(framing: RecordFraming) {}
    func resetConnections() {}
    func expire() {}
}
