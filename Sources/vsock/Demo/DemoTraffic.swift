// SPDX-License-Identifier: Apache-2.0
//
// What crosses in the demonstration, known to both sides.

import VsockTransport
import VsockWire

enum DemoTraffic {
    static let recordPort: UInt32 = 1001
    static let streamPort: UInt32 = 1002
    static let guestPort: UInt32 = 1003
    static let streamByteCount = 8 << 20
    static let timeoutNanoseconds: UInt64 = 10_000_000_000
    /// Bytes of a buffer that takes any of the records.
    static let capacity = 512 * 1024

    /// Records of very different sizes: one that fits into any packet, one that Linux's receive buffers hold in two, one
    /// as large as a packet may be, and one as large as a connection's buffer. Only the framing of RFC v5 has larger
    /// ones.
    static func records(_ framing: SeqpacketMode) -> [[UInt8]] {
        let records = [
            Array("a record".utf8), pattern(5000, seed: 1), pattern(64 * 1024, seed: 2), pattern(256 * 1024, seed: 3),
        ]
        return framing == .rfcV5 ? records + [pattern(300 * 1024, seed: 4)] : records
    }

    /// Bytes that differ from place to place.
    static func pattern(_ count: Int, seed: UInt64) -> [UInt8] {
        var state = seed &* 0x9e37_79b9_7f4a_7c15 | 1
        return (0..<count).map { _ in
            state ^= state << 13
            state ^= state >> 7
            state ^= state << 17
            return UInt8(truncatingIfNeeded: state >> 32)
        }
    }

    /// A record in words: short ones in full.
    static func describe(_ record: [UInt8]) -> String {
        record.count < 64 ? "\"\(String(decoding: record, as: UTF8.self))\"" : "\(record.count) bytes"
    }
}
