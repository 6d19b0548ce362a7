// SPDX-License-Identifier: Apache-2.0
//
// An input as a source of decisions. Behind its end there are zeros, so that every prefix of an input is one, too, and a
// fuzzer can cut.

/// Reads an input from its beginning to its end.
struct FuzzInput {
    private let bytes: UnsafeRawBufferPointer
    private var position = 0

    init(_ bytes: UnsafeRawBufferPointer) { self.bytes = bytes }

    var byteCount: Int { bytes.count }

    /// Whether all has been read: there are no more operations.
    var isEmpty: Bool { position >= bytes.count }

    mutating func byte() -> UInt8 {
        guard position < bytes.count else { return 0 }
        defer { position += 1 }
        return bytes[position]
    }

    mutating func integer<T: FixedWidthInteger & UnsignedInteger>(_ type: T.Type = T.self) -> T {
        var value: T = 0
        for index in 0..<(T.bitWidth / 8) { value |= T(truncatingIfNeeded: byte()) << T(8 * index) }
        return value
    }

    mutating func flag() -> Bool { byte() & 1 == 1 }

    /// A number from 0 to `bound` - 1.
    mutating func below(_ bound: Int) -> Int {
        bound <= 256 ? Int(byte()) % bound : Int(integer(UInt32.self)) % bound
    }

    /// A member of a list that is not empty.
    mutating func pick<Element>(_ members: [Element]) -> Element { members[below(members.count)] }

    /// A number of the kind that breaks arithmetic: small, at an edge of a type, or any.
    mutating func number() -> UInt64 {
        let kind = byte()
        let distance = UInt64(kind & 0x1f)
        switch kind >> 5 {
        case 0, 1: return distance
        case 2: return UInt64(UInt32.max) &- distance
        case 3: return UInt64.max &- distance
        case 4: return (UInt64(1) << (distance + distance)) &- UInt64(byte() & 3)
        case 5: return UInt64(integer(UInt16.self))
        case 6: return UInt64(integer(UInt32.self))
        default: return integer()
        }
    }

    /// The next bytes, as many as there are of `count`.
    mutating func take(_ count: Int) -> UnsafeRawBufferPointer {
        let end = min(bytes.count, position + count)
        defer { position = end }
        return UnsafeRawBufferPointer(rebasing: bytes[position..<end])
    }

    /// `count` bytes, with zeros behind the end.
    mutating func padded(_ count: Int) -> [UInt8] {
        let taken = Array(take(count))
        return taken + [UInt8](repeating: 0, count: count - taken.count)
    }
}
