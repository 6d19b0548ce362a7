// SPDX-License-Identifier: Apache-2.0
//
// Loads and stores of the little-endian integers that payloads are made of. A load outside of the span traps: every
// parser checks the payload's size once before its first load.

extension RawSpan {
    /// The integer at byte `offset`, at any alignment.
    func littleEndian<T: FixedWidthInteger & BitwiseCopyable>(at offset: Int, as type: T.Type = T.self) -> T {
        T(littleEndian: unsafeLoadUnaligned(fromByteOffset: offset, as: T.self))
    }

    /// A copy of `range`, which lies inside of the span.
    func copy(_ range: Range<Int>) -> [UInt8] {
        [UInt8](unsafeUninitializedCapacity: range.count) { buffer, count in
            for offset in range {
                buffer.initializeElement(at: offset - range.lowerBound, to: littleEndian(at: offset))
            }
            count = range.count
        }
    }
}

extension [UInt8] {
    mutating func appendLittleEndian<T: FixedWidthInteger>(_ value: T) {
        Swift.withUnsafeBytes(of: value.littleEndian) { append(contentsOf: $0) }
    }
}
