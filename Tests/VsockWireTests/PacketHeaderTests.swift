// SPDX-License-Identifier: Apache-2.0
//
// virtio 1.3 "Socket Device / Device Operation": where each field of a header is.

import Testing
import VsockTestSupport
import VsockWire

func encoded(_ header: PacketHeader) -> [UInt8] {
    var bytes = [UInt8](repeating: 0xee, count: PacketHeader.byteCount)
    bytes.withUnsafeMutableBytes { header.write(to: $0) }
    return bytes
}

func decoded(_ bytes: [UInt8]) -> PacketHeader? { bytes.withUnsafeBytes { PacketHeader($0) } }

@Suite("Packet header")
struct PacketHeaderTests {
    static let blank = PacketHeader(
        sourceCID: 0, destinationCID: 0, sourcePort: 0, destinationPort: 0, type: SocketType(rawValue: 0),
        operation: .invalid)

    /// One field at a time: its name, a header with only that field set, its offset and bytes.
    struct Field: Sendable, CustomTestStringConvertible {
        var testDescription: String
        var offset: Int
        var bytes: [UInt8]
        var header: PacketHeader

        init(_ name: String, _ offset: Int, _ bytes: String, _ set: (inout PacketHeader) -> Void) {
            testDescription = name
            self.offset = offset
            self.bytes = hexBytes(bytes)
            header = PacketHeaderTests.blank
            set(&header)
        }
    }

    static let fields = [
        Field("src_cid", 0, "0102030405060708") { $0.sourceCID = 0x0807_0605_0403_0201 },
        Field("dst_cid", 8, "1112131415161718") { $0.destinationCID = 0x1817_1615_1413_1211 },
        Field("src_port", 16, "21222324") { $0.sourcePort = 0x2423_2221 },
        Field("dst_port", 20, "31323334") { $0.destinationPort = 0x3433_3231 },
        Field("len", 24, "41424344") { $0.payloadByteCount = 0x4443_4241 },
        Field("type", 28, "5152") { $0.type = SocketType(rawValue: 0x5251) },
        Field("op", 30, "6162") { $0.operation = Operation(rawValue: 0x6261) },
        Field("flags", 32, "71727374") { $0.flags = 0x7473_7271 },
        Field("buf_alloc", 36, "81828384") { $0.bufferAllocation = 0x8483_8281 },
        Field("fwd_cnt", 40, "91929394") { $0.forwardedCount = 0x9493_9291 },
    ]

    @Test("has each field little-endian at its place and touches nothing else", arguments: fields)
    func fieldIsInItsPlace(field: Field) {
        var expected = [UInt8](repeating: 0, count: 44)
        expected.replaceSubrange(field.offset..<field.offset + field.bytes.count, with: field.bytes)
        #expect(hexText(encoded(field.header)) == hexText(expected))
        #expect(decoded(expected) == field.header)
    }

    @Test("is 44 bytes that the fields fill without gaps")
    func fieldsFillTheHeader() {
        #expect(PacketHeader.byteCount == 44)
        var end = 0
        for field in Self.fields {
            #expect(field.offset == end, "\(field.testDescription)")
            end = field.offset + field.bytes.count
        }
        #expect(end == 44)
        #expect(PacketHeader.maximumPayloadByteCount == 65_536)
    }

    @Test("is not read from fewer than 44 bytes", arguments: 0..<44)
    func shortIsRefused(byteCount: Int) {
        #expect(decoded([UInt8](repeating: 0xff, count: byteCount)) == nil)
    }

    @Test("is read from the first 44 bytes of more, and written to no more")
    func longIsAllowed() {
        let bytes = encoded(Self.fields[4].header)
        #expect(decoded(bytes + [1, 2, 3]) == Self.fields[4].header)
        var larger = [UInt8](repeating: 0xee, count: 50)
        larger.withUnsafeMutableBytes { Self.blank.write(to: $0) }
        #expect(larger == [UInt8](repeating: 0, count: 44) + [UInt8](repeating: 0xee, count: 6))
    }

    @Test("is read and written at any alignment", arguments: 0..<8)
    func alignmentDoesNotMatter(offset: Int) {
        var bytes = [UInt8](repeating: 0, count: 52)
        let header = Self.fields[0].header
        bytes.withUnsafeMutableBytes { header.write(to: UnsafeMutableRawBufferPointer(rebasing: $0[offset...])) }
        let read = bytes.withUnsafeBytes { PacketHeader(UnsafeRawBufferPointer(rebasing: $0[offset...])) }
        #expect(read == header)
    }

    @Test("keeps any 44 bytes as they are")
    func randomBytesSurvive() {
        var random = PRNG(seed: 44)
        for round in 0..<1000 {
            let bytes = random.bytes(44)
            #expect(decoded(bytes).map(encoded) == bytes, "round \(round) of seed 44: \(hexText(bytes))")
        }
    }
}
