// SPDX-License-Identifier: Apache-2.0
//
// Many connections at once, and that nothing of them is left.

import Glibc
import Testing
import VsockSystem
import VsockWire

@testable import VsockCore
@testable import VsockTransport

@Suite("Many connections")
struct ManyConnectionsTests {
    @Test("1,000 connections at once, asked for by both sides, each echo records; afterwards nothing is left")
    func echo() throws {
        let connectionCount = 1000
        let recordCount = 100
        _ = try ResourceLimits.raiseOpenFiles()
        let device = try TestDevice()
        let guest = try device.guest { $0.queueSize = 1024 }
        let descriptorsBefore = try ResourceLimits.openDescriptorCount()
        let socketsBefore = try boundSocketCount(device)
        try guest.listen(.seqpacket, port: 5000, backlog: connectionCount)
        let listener = try device.listen(.seqpacket, port: 5001)
        var pairs: [ConnectedPair] = []
        for index in 0..<connectionCount {
            if index % 2 == 0 {
                let client = try device.client(.seqpacket)
                try client.send("CONNECT 5000")
                let socket = try guest.accept(port: 5000)
                #expect(try client.receiveLine()?.hasPrefix("OK ") == true)
                pairs.append(ConnectedPair(host: client, guest: guest, socket: socket))
            } else {
                let socket = try guest.connect(.seqpacket, port: 5001)
                pairs.append(ConnectedPair(host: try listener.take(), guest: guest, socket: socket))
            }
        }
        #expect(try device.connectionCount() == connectionCount)
        for round in 0..<recordCount {
            for (index, pair) in pairs.enumerated() { try pair.send(pattern(1 + index % 300, seed: index + round)) }
            for (index, pair) in pairs.enumerated() {
                let record = try #require(try pair.host.receive(upTo: 4096))
                if record != pattern(1 + index % 300, seed: index + round) { Issue.record("connection \(index)") }
                try pair.host.send(record)
            }
            for (index, pair) in pairs.enumerated()
            where try pair.receive() != pattern(1 + index % 300, seed: index + round) {
                Issue.record("connection \(index)")
            }
        }
        for (index, pair) in pairs.enumerated() {
            if index % 4 < 2 { pair.host.close() }
            pair.socket.close()
        }
        try eventually { guest.connectionCount == 0 }
        for pair in pairs { pair.host.close() }
        try eventually { try device.connectionCount() == 0 }
        try eventually { try device.inspect { $0.host.sockets.allSatisfy { $0 == nil } && $0.host.lingering.isEmpty } }
        #expect(try device.inspect { $0.host.readyQueue.count } == 0)
        // The device's ends of the connections that host programs asked for are bound to its paths.
        try eventually { try boundSocketCount(device) == socketsBefore + 1 }
        // Other tests of this process open descriptors, too, but close them again.
        try eventually { try ResourceLimits.openDescriptorCount() < descriptorsBefore + connectionCount / 4 }
    }

    @Test("connections beyond the device's limit are refused and do not disturb the others")
    func limit() throws {
        let device = try TestDevice()
        let guest = PacketGuest(try device.driver { $0.queueSize = 1024 })
        let listener = try device.listen(.stream, port: 5000)
        try guest.connect(from: 1)
        let host = try listener.take()
        try device.inspect { $0.host.endpoint.configuration.maximumConnectionCount = 3 }
        try guest.connect(from: 2)
        try guest.connect(from: 3)
        try guest.send(guest.packet(.request, from: 4))
        #expect(try guest.next().header.operation == .reset)
        let client = try device.client()
        try client.send("CONNECT 5000\n")
        #expect(try client.isClosedWithoutText())
        try guest.send(guest.packet(.readWrite, from: 1), payload: [1])
        #expect(try host.receive() == [1])
        try guest.send(guest.packet(.reset, from: 2))
        try guest.connect(from: 5)
    }

    /// Sockets, in the whole system, whose address is one of the device's paths.
    private func boundSocketCount(_ device: TestDevice) throws -> Int {
        let file = OwnedFileDescriptor(owning: open("/proc/net/unix", O_RDONLY | O_CLOEXEC))
        var text: [UInt8] = []
        var buffer = [UInt8](repeating: 0, count: 65536)
        while case .count(let count) = buffer.withUnsafeMutableBytes({ DescriptorIO.read(file.rawValue, into: $0) }),
            count > 0
        { text += buffer[..<count] }
        let path = Array(device.hybridPath.utf8)
        return text.split(separator: UInt8(ascii: "\n")).count { line in
            line.split(separator: UInt8(ascii: " ")).last?.starts(with: path) == true
        }
    }
}
