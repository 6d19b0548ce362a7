// SPDX-License-Identifier: Apache-2.0
//
// The driver at a device that nobody here wrote: what both agree on is more than what one author believes.

import Synchronization
import Testing
import VsockCore
import VsockSystem
import VsockWire

@testable import VsockTransport

@Suite(
    "The driver at rust-vmm's vhost-device-vsock",
    .enabled(if: !PeerDevice.program.isEmpty, "vhost-device-vsock was not fetched; Scripts/fetch-peer.sh says why"),
    .timeLimit(.minutes(10)))
struct PeerDeviceTests {
    private static let chunkByteCount = 1 << 20
    private static let chunkCount = 1024

    /// Remembers how connections ended.
    private final class Ends: PacketTap {
        private let packets = Mutex<[String]>([])

        func packet(_ header: PacketHeader, _ payload: PacketPayload, isOutgoing: Bool) {
            guard header.operation == .shutdown || header.operation == .reset else { return }
            packets.withLock { $0.append("\(isOutgoing ? "guest" : "device"): \(header.operation)") }
        }

        func take() -> [String] {
            packets.withLock { packets in
                defer { packets = [] }
                return packets
            }
        }
    }

    @Test("1 GiB crosses in each direction with equal SHA-256, whoever connects, and the connection ends cleanly")
    func gibibyte() throws {
        let device = try PeerDevice()
        let guest = try device.guest()
        #expect(guest.driver.guestCID == 3)
        let ends = Ends()
        guest.driver.setTap(ends)
        let listener = try device.listen(port: 5000)
        let socket = try guest.connect(.stream, port: 5000)
        let host = try listener.take()
        try fromGuest(socket, host)
        // The host answers on the same connection.
        try host.send([7])
        #expect(try socket.receive() == [7])
        socket.close()
        #expect(try host.receive() == nil)
        try eventually { guest.connectionCount == 0 }
        // It may still send something for a connection that has ended, to which the answer is a reset.
        #expect(ends.take().prefix(2) == ["guest: SHUTDOWN", "device: RST"])

        try guest.listen(.stream, port: 52)
        let client = try device.connect(port: 52)
        let accepted = try guest.accept(port: 52)
        #expect(try client.receiveLine()?.hasPrefix("OK ") == true)
        try fromHost(client, accepted)
        try accepted.send([8])
        #expect(try client.receive() == [8])
        client.close()
        #expect(try accepted.receive() == nil)
        try eventually { guest.connectionCount == 0 }
        #expect(ends.take().prefix(2) == ["device: SHUTDOWN", "guest: RST"])
    }

    private func fromGuest(_ socket: any ConnectibleSocket, _ host: HostProgram) throws {
        let receiver = try Background {
            let digest = try DigestProgram()
            var count = 0
            while count < Self.chunkCount * Self.chunkByteCount {
                guard let bytes = try host.receive(upTo: Self.chunkByteCount) else { break }
                try digest.update(bytes)
                count += bytes.count
            }
            return try digest.finish()
        }
        let digest = try DigestProgram()
        for index in 0..<Self.chunkCount {
            let chunk = Self.chunk(index)
            try digest.update(chunk)
            try socket.send(chunk)
        }
        #expect(try digest.finish() == receiver.value())
    }

    private func fromHost(_ host: HostProgram, _ socket: any ConnectibleSocket) throws {
        let sender = try Background {
            let digest = try DigestProgram()
            for index in 0..<Self.chunkCount {
                let chunk = Self.chunk(index)
                try digest.update(chunk)
                try host.send(chunk)
            }
            return try digest.finish()
        }
        let digest = try DigestProgram()
        var count = 0
        while count < Self.chunkCount * Self.chunkByteCount {
            guard let bytes = try socket.receive() else { break }
            try digest.update(bytes)
            count += bytes.count
        }
        #expect(try digest.finish() == sender.value())
    }

    /// A chunk that differs from all others.
    private static func chunk(_ index: Int) -> [UInt8] { pattern(chunkByteCount, seed: index) }
}

/// sha256sum, fed piece by piece.
private final class DigestProgram {
    private let child: ChildProcess
    private var input: SharedFileDescriptor?
    private let output: SharedFileDescriptor

    init() throws {
        let input = try DescriptorIO.makePipe(nonBlocking: false)
        let output = try DescriptorIO.makePipe(nonBlocking: false)
        let readEnd = input.readEnd
        let writeEnd = output.writeEnd
        child = try ChildProcess.spawn(
            "sha256sum", standardInput: readEnd.rawValue, standardOutput: writeEnd.rawValue)
        self.input = SharedFileDescriptor(input.writeEnd)
        self.output = SharedFileDescriptor(output.readEnd)
    }

    func update(_ bytes: [UInt8]) throws {
        var rest = bytes[...]
        while !rest.isEmpty {
            guard case .count(let count) = rest.withUnsafeBytes({ DescriptorIO.write(input?.rawValue ?? -1, from: $0) })
            else { throw TestFailure("sha256sum takes no more") }
            rest = rest.dropFirst(count)
        }
    }

    /// 64 hexadecimal digits.
    func finish() throws -> String {
        input = nil
        guard try child.wait() == .exited(0) else { throw TestFailure("sha256sum failed") }
        var line = [UInt8](repeating: 0, count: 64)
        let result = line.withUnsafeMutableBytes { DescriptorIO.read(output.rawValue, into: $0) }
        guard result == .count(64) else { throw TestFailure("sha256sum said nothing") }
        return String(decoding: line, as: UTF8.self)
    }
}
