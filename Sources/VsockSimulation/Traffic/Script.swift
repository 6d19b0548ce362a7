// SPDX-License-Identifier: Apache-2.0
//
// What one end of a conversation sends, as the other end knows it too: sizes drawn once, bytes computed from their
// position. So nobody has to keep what is under way, and every byte that comes can be told right or wrong.

import VsockTestSupport
import VsockWire

/// One direction of a conversation.
struct Script {
    /// One send: a record, or a piece of a stream.
    struct Part {
        var byteCount: Int
        var endOfRecord: Bool
    }

    let salt: UInt8
    let parts: [Part]
    /// Where each part begins.
    let starts: [Int]
    let byteCount: Int

    init(salt: UInt8, parts: [Part]) {
        self.salt = salt
        self.parts = parts
        var start = 0
        starts = parts.map { part in
            defer { start += part.byteCount }
            return start
        }
        byteCount = start
    }

    /// The byte at a position.
    private func byte(_ position: Int) -> UInt8 {
        UInt8(truncatingIfNeeded: position &* 167 &+ (position >> 8) &* 31) ^ salt
    }

    /// The bytes of a range.
    func bytes(_ range: Range<Int>) -> [UInt8] {
        [UInt8](unsafeUninitializedCapacity: range.count) { buffer, count in
            for index in 0..<range.count { buffer[index] = byte(range.lowerBound + index) }
            count = range.count
        }
    }

    /// Whether `bytes` are those from `start` on.
    func matches(_ bytes: UnsafeRawBufferPointer, from start: Int) -> Bool {
        guard start + bytes.count <= byteCount else { return false }
        for index in 0..<bytes.count where bytes[index] != byte(start + index) { return false }
        return true
    }

    /// A script drawn from a source of random numbers: in all some `budget` bytes, records of at most `recordLimit`.
    static func drawn(
        _ type: SocketType, budget: Int, recordLimit: Int, marksRecords: Bool, hasEmptyRecords: Bool,
        using random: inout PRNG
    ) -> Script {
        let salt = UInt8(truncatingIfNeeded: random.next())
        var parts: [Part] = []
        var left = random.below(budget + 1)
        while left > 0, parts.count < 12 {
            var byteCount = min(left, random.within(1...max(1, type == .stream ? budget : recordLimit)))
            if type == .seqpacket {
                // The largest record and the smallest are the interesting ones.
                if random.chance(percent: 15) { byteCount = recordLimit }
                if random.chance(percent: 15) { byteCount = 1 }
                if hasEmptyRecords, random.chance(percent: 10) { byteCount = 0 }
            }
            let isMarked = type == .seqpacket && marksRecords && byteCount > 0 && random.chance(percent: 30)
            parts.append(Part(byteCount: byteCount, endOfRecord: isMarked))
            left -= max(1, byteCount)
        }
        return Script(salt: salt, parts: parts)
    }
}
