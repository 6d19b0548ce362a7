// SPDX-License-Identifier: Apache-2.0
//
// Whole packets as they cross the wire, written down by hand. Guest 3 port 0x10000 talks to the host's port 1234;
// the buffer is 256 KiB.

import Testing
import VsockTestSupport
import VsockWire

@Suite("Packets byte by byte")
struct GoldenPacketTests {
    struct Golden: Sendable, CustomTestStringConvertible {
        var testDescription: String
        var header: PacketHeader
        var marker: SequenceHeader?
        var bytes: String
    }

    static func fromGuest(
        _ name: String, _ type: SocketType, _ operation: Operation, flags: UInt32 = 0, length: UInt32 = 0,
        marker: SequenceHeader? = nil, _ bytes: String
    ) -> Golden {
        let header = PacketHeader(
            sourceCID: 3, destinationCID: 2, sourcePort: 0x10000, destinationPort: 1234, payloadByteCount: length,
            type: type, operation: operation, flags: flags, bufferAllocation: 262_144)
        return Golden(testDescription: name, header: header, marker: marker, bytes: bytes)
    }

    static let addresses = "0300000000000000 0200000000000000 00000100 d2040000"

    static let goldens = [
        fromGuest(
            "RFC v5 SEQ_BEGIN of 5 bytes", .seqpacket, .sequenceBegin, length: 8,
            marker: SequenceHeader(messageCount: 0, messageByteCount: 5),
            addresses + "08000000 0200 0800 00000000 00000400 00000000 | 00000000 05000000"),
        fromGuest(
            "RFC v5 RW with MSG_EOR", .seqpacket, .readWrite, flags: SequenceFlags.rfcV5EndOfRecord.rawValue,
            length: 5, addresses + "05000000 0200 0500 01000000 00000400 00000000"),
        fromGuest(
            "RFC v5 SEQ_END", .seqpacket, .sequenceEnd, length: 8,
            marker: SequenceHeader(messageCount: 1, messageByteCount: 0),
            addresses + "08000000 0200 0900 00000000 00000400 00000000 | 01000000 00000000"),
        fromGuest(
            "standard RW that ends a message with MSG_EOR", .seqpacket, .readWrite,
            flags: SequenceFlags([.endOfMessage, .endOfRecord]).rawValue, length: 65_536,
            addresses + "00000100 0200 0500 03000000 00000400 00000000"),
        fromGuest(
            "REQUEST of a stream", .stream, .request,
            addresses + "00000000 0100 0100 00000000 00000400 00000000"),
        fromGuest(
            "SHUTDOWN of both directions", .stream, .shutdown, flags: ShutdownFlags.both.rawValue,
            addresses + "00000000 0100 0400 03000000 00000400 00000000"),
        Golden(
            testDescription: "CREDIT_UPDATE after a record of 5 bytes",
            header: PacketHeader(
                sourceCID: 2, destinationCID: 3, sourcePort: 1234, destinationPort: 0x10000, type: .seqpacket,
                operation: .creditUpdate, bufferAllocation: 262_144, forwardedCount: 8 + 5 + 8),
            marker: nil,
            bytes: """
                0200000000000000 0300000000000000 d2040000 00000100 00000000 0200 0600 00000000 00000400 15000000
                """),
    ]

    @Test("are written and read", arguments: goldens)
    func packetIsGolden(golden: Golden) {
        var bytes = encoded(golden.header)
        if let marker = golden.marker {
            var payload = [UInt8](repeating: 0xee, count: SequenceHeader.byteCount)
            payload.withUnsafeMutableBytes { marker.write(to: $0) }
            bytes += payload
        }
        #expect(hexText(bytes) == hexText(hexBytes(golden.bytes)))
        #expect(decoded(hexBytes(golden.bytes)) == golden.header)
        guard let marker = golden.marker else { return }
        let payload = Array(hexBytes(golden.bytes)[44...])
        #expect(payload.withUnsafeBytes { SequenceHeader($0) } == marker)
    }
}
