// SPDX-License-Identifier: Apache-2.0
//
// Payload for tests, cut from one table: in debug builds, making it byte by byte would take most of the time.

private let table: [UInt8] = {
    var state: UInt32 = 2_463_534_242
    return (0..<(1 << 20) + (1 << 17)).map { _ in
        state ^= state << 13
        state ^= state >> 17
        state ^= state << 5
        return UInt8(truncatingIfNeeded: state)
    }
}()

/// Bytes that differ from their neighbours and from those of other seeds, so that a shift, a swap or a loss shows. At
/// most 1 MiB and a little.
func pattern(_ byteCount: Int, seed: Int = 0) -> [UInt8] {
    let start = (seed &* 7919) & 0xffff
    return Array(table[start..<(start + byteCount)])
}

/// All bytes of several pieces.
func flat(_ pieces: [[UInt8]]) -> [UInt8] {
    var bytes: [UInt8] = []
    bytes.reserveCapacity(pieces.reduce(0) { $0 + $1.count })
    for piece in pieces { bytes += piece }
    return bytes
}
