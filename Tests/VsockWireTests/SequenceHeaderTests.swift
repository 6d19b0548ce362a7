// SPDX-License-Identifier: Apache-2.0
//
// The payload of a record marker of the RFC v5 series.

import Testing
import VsockTestSupport
import VsockWire

@Suite("Sequence header")
struct SequenceHeaderTests {
    @Test("has msg_cnt first, then msg_len, both little-endian")
    func fieldsAreInTheirPlaces() {
        let header = SequenceHeader(messageCount: 0x0403_0201, messageByteCount: 0x0807_0605)
        var bytes = [UInt8](repeating: 0xee, count: 9)
        bytes.withUnsafeMutableBytes { header.write(to: $0) }
        #expect(bytes == [1, 2, 3, 4, 5, 6, 7, 8, 0xee])
        #expect(bytes[..<8].withUnsafeBytes { SequenceHeader($0) } == header)
    }

    @Test("is read from exactly 8 bytes and no other number", arguments: 0..<20)
    func onlyEightBytesAreRead(byteCount: Int) {
        let bytes = [UInt8](repeating: 0xff, count: byteCount)
        let header = bytes.withUnsafeBytes { SequenceHeader($0) }
        #expect((header != nil) == (byteCount == 8))
    }
}
