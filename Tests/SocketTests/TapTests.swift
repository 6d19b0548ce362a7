// SPDX-License-Identifier: Apache-2.0
//
// Captures of the API's transports.

import Logging
import Testing
import VsockSystem
import VsockWire

import Vsock

@Suite("Captures of transports", .timeLimit(.minutes(10)))
struct TapTests {
    @Test("a capture has what crosses a transport, from the first packet on", arguments: Setup.allCases)
    func capture(setup: Setup) async throws {
        let path = "/tmp/vsock-tap-\(CurrentProcess.identifier)-\(setup.rawValue).pcap"
        defer { FileSystem.removeTree(path) }
        let capture = try PacketCapture(path: path, log: Logger(label: "test"))
        let ends = try setup.make(tap: capture)
        let (client, server) = try await ends.pair(.seqpacket)
        try await client.send(pattern(10_000), endOfRecord: true)
        #expect(try await server.next() == pattern(10_000))
        client.close()
        capture.finish()
        var reader = CaptureReader()
        try FileSystem.read(path).withUnsafeBytes { reader.append($0) }
        var packets: [CapturedPacket] = []
        while let packet = try reader.next() { packets.append(packet) }
        let operations = packets.compactMap(\.header?.operation)
        #expect(operations.starts(with: [.request, .response]))
        #expect(operations.contains(.sequenceBegin) == setup.isRFC)
        let payload = packets.filter { $0.header?.operation == .readWrite }.flatMap(\.payload)
        #expect(payload == pattern(10_000))
    }

    @Test("a transport whose packets cross elsewhere has no tap, and says where there is one")
    func elsewhere() throws {
        let capture = try PacketCapture(path: "/dev/null", log: Logger(label: "test"))
        #expect(throws: TransportError.self) { try VsockTransport.uds("/x").setTap(capture) }
        #expect(throws: TransportError.self) { try VsockTransport.kernel.setTap(capture) }
    }
}
