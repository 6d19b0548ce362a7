// SPDX-License-Identifier: Apache-2.0
//
// The answer to a packet that no socket wants (Linux: `virtio_transport_reset_no_sock`).

import Testing
import VsockTestSupport
import VsockWire

@Suite("Reset without a socket")
struct ResetWithoutSocketTests {
    static let offender = PacketHeader(
        sourceCID: 3, destinationCID: 2, sourcePort: 0x10000, destinationPort: 1234, payloadByteCount: 100,
        type: SocketType(rawValue: 0x1234), operation: .request, flags: 7, bufferAllocation: 262_144,
        forwardedCount: 99)

    @Test("swaps the addresses, repeats the type and carries nothing else")
    func fields() throws {
        let reset = try #require(Self.offender.resetWithoutSocket)
        let expected = hexBytes(
            "0200000000000000 0300000000000000 d2040000 00000100 00000000 3412 0300 00000000 00000000 00000000")
        #expect(hexText(encoded(reset)) == hexText(expected))
    }

    @Test("answers every operation but a reset", arguments: 0..<20 as Range<UInt16>)
    func resetIsNeverAnswered(operation: UInt16) {
        var header = Self.offender
        header.operation = Operation(rawValue: operation)
        #expect((header.resetWithoutSocket == nil) == (operation == 3))
    }

    @Test("goes back to addresses with reserved bits set")
    func reservedBitsSurvive() throws {
        var header = Self.offender
        header.sourceCID = .max
        header.destinationCID = 1 << 32
        let reset = try #require(header.resetWithoutSocket)
        #expect(reset.destinationCID == .max)
        #expect(reset.sourceCID == 1 << 32)
    }
}
