// SPDX-License-Identifier: Apache-2.0
//
// The one place of this target that reads and writes raw memory. Callers guard the length once per structure.

@inlinable
func loadLittleEndian<T: FixedWidthInteger>(_ bytes: UnsafeRawPointer, _ offset: Int, as: T.Type = T.self) -> T {
    T(littleEndian: bytes.loadUnaligned(fromByteOffset: offset, as: T.self))
}

@inlinable
func storeLittleEndian<T: FixedWidthInteger>(_ value: T, _ bytes: UnsafeMutableRawPointer, _ offset: Int) {
    bytes.storeBytes(of: value.littleEndian, toByteOffset: offset, as: T.self)
}
