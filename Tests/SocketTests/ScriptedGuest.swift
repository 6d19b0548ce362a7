// SPDX-License-Identifier: Apache-2.0
//
// A guest that says exactly the packets that a test wants, right or wrong, to a socket of this process.

import Synchronization
import Vsock
import VsockSystem
import VsockTestSupport
import VsockTransport
import VsockWire

/// One packet of a script.
enum ScriptedPacket: Sendable {
    /// SEQ_BEGIN with this counter and length.
    case begin(UInt32, UInt32)
    /// RW with these bytes.
    case data(String, flags: UInt32 = 0)
    /// SEQ_END with this counter.
    case end(UInt32, length: UInt32 = 0)
    /// Any packet.
    case other(Operation, type: SocketType = .seqpacket, flags: UInt32 = 0, payload: [UInt8] = [])

    var operation: Operation {
        switch self {
        case .begin: .sequenceBegin
        case .data: .readWrite
        case .end: .sequenceEnd
        case .other(let operation, _, _, _): operation
        }
    }

    var type: SocketType {
        if case .other(_, let type, _, _) = self { type } else { .seqpacket }
    }

    var flags: UInt32 {
        switch self {
        case .data(_, let flags), .other(_, _, let flags, _): flags
        case .begin, .end: 0
        }
    }

    var payload: [UInt8] {
        switch self {
        case .begin(let count, let length): Self.marker(count, length)
        case .data(let text, _): Array(text.utf8)
        case .end(let count, let length): Self.marker(count, length)
        case .other(_, _, _, let payload): payload
        }
    }

    static func marker(_ count: UInt32, _ length: UInt32) -> [UInt8] {
        var bytes = [UInt8](repeating: 0, count: SequenceHeader.byteCount)
        bytes.withUnsafeMutableBytes { SequenceHeader(messageCount: count, messageByteCount: length).write(to: $0) }
        return bytes
    }
}

/// A bare driver with one connection, in the framing of RFC v5.
final class ScriptedGuest {
    /// What is the matter with the device.
    struct Silence: Error, CustomStringConvertible {
        let description: String
    }

    private static let lastNumber = Atomic<Int>(0)

    /// The host's end of the connection.
    let socket: VsockSocket
    private let device: VsockTransport
    private let driver: VsockDriver
    private var flow = PacketBuilder(type: .seqpacket)
    private var fencePort: UInt32 = 0xf000_0000
    /// Payload bytes that were sent to the connection: what it has to credit in the end.
    private var sentByteCount: UInt32 = 0
    /// Packets from the device that nobody has asked for yet.
    private var received: [PacketHeader] = []

    /// Connects to a listener in this process.
    init() async throws {
        let number = Self.lastNumber.add(1, ordering: .relaxed).newValue
        let path = "/tmp/vsock-scripted-\(CurrentProcess.identifier)-\(number).sock"
        device = VsockTransport.device(path, guestCID: 3, seqpacket: .rfcV5)
        let listener = try await VsockListener.bind(.seqpacket, port: 1234, on: device)
        driver = try VsockDriver(path: path)
        _ = try driver.transmit(flow.packet(.request))
        driver.flush()
        var response: PacketHeader?
        while response == nil {
            guard try driver.wait(timeoutNanoseconds: testDeadline) else {
                throw Silence(description: "no answer to a request")
            }
            try driver.receive { header, _ in response = header }
        }
        guard response?.operation == .response else { throw Silence(description: "the request is refused") }
        socket = try await listener.accept()
    }

    deinit { device.close() }

    /// Sends packets of the connection; those of another type belong to none, and are not credited.
    func send(_ packets: [ScriptedPacket]) throws {
        for packet in packets {
            let payload = packet.payload
            var header = flow.packet(packet.operation, flags: packet.flags, payloadByteCount: UInt32(payload.count))
            header.type = packet.type
            guard try payload.withUnsafeBytes({ try driver.transmit(header, payload: $0) }) else {
                throw Silence(description: "the device takes no packets")
            }
            if packet.type == flow.type { sentByteCount &+= UInt32(payload.count) }
        }
        driver.flush()
    }

    /// Waits until every byte that was sent has been credited, and returns the other packets that came until then.
    func packetsUntilCredited() async throws -> [PacketHeader] {
        try send([.other(.creditRequest)])
        try await wait("\(sentByteCount) bytes credited") { header in
            header.operation == .creditUpdate && header.forwardedCount == self.sentByteCount
        }
        // Resets leave in order: this one is behind those that the packets before have caused.
        fencePort += 1
        var fence = flow.packet(.creditRequest)
        fence.sourcePort = fencePort
        _ = try driver.transmit(fence)
        driver.flush()
        try await wait("a reset") { $0.destinationPort == self.fencePort }
        defer { received = [] }
        return received.filter { $0.operation != .creditUpdate && $0.destinationPort != fencePort }
    }

    /// Waits until the device has credited so many bytes.
    func waitForCredit(of byteCount: UInt32) async throws {
        try await wait("\(byteCount) bytes credited") { $0.forwardedCount >= byteCount }
    }

    /// Waits until the device has reset the connection.
    func waitForReset() async throws {
        try await wait("a reset") { $0.operation == .reset && $0.destinationPort == self.flow.sourcePort }
    }

    private func wait(_ purpose: String, until isIt: (PacketHeader) -> Bool) async throws {
        let deadline = MonotonicClock.now() + testDeadline
        var index = 0
        while true {
            while index < received.count {
                if isIt(received[index]) { return }
                index += 1
            }
            guard MonotonicClock.now() < deadline else {
                let last = received.last.map { ", last \($0)" } ?? ""
                throw Silence(description: "waited for \(purpose) in vain\(last)")
            }
            // The task that reads may need this thread.
            _ = try driver.wait(timeoutNanoseconds: 1_000_000)
            await Task.yield()
            try driver.receive { header, _ in self.received.append(header) }
        }
    }
}
