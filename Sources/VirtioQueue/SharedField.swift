// SPDX-License-Identifier: Apache-2.0
//
// Single reads and writes of fields in memory that the other half changes at any time. All of them are atomics bound on
// the mapping: a plain load could be repeated or dropped by the compiler, and a value checked would not be the value
// used. Fields are little-endian (virtio 1.3 "Legacy Interfaces: A Note on Virtqueue Endianness": only legacy differs).

import Synchronization

extension UnsafeMutableRawPointer {
    @inline(__always)
    func sharedUInt16(at offset: Int) -> UnsafeMutablePointer<Atomic<UInt16>> {
        (self + offset).assumingMemoryBound(to: Atomic<UInt16>.self)
    }

    @inline(__always)
    func loadShared16(at offset: Int) -> UInt16 {
        UInt16(littleEndian: sharedUInt16(at: offset).pointee.load(ordering: .relaxed))
    }

    @inline(__always)
    func storeShared16(_ value: UInt16, at offset: Int) {
        sharedUInt16(at: offset).pointee.store(value.littleEndian, ordering: .relaxed)
    }

    /// As `storeShared16`, after everything stored before.
    @inline(__always)
    func releaseShared16(_ value: UInt16, at offset: Int) {
        sharedUInt16(at: offset).pointee.store(value.littleEndian, ordering: .releasing)
    }

    @inline(__always)
    func loadShared32(at offset: Int) -> UInt32 {
        let field = (self + offset).assumingMemoryBound(to: Atomic<UInt32>.self)
        return UInt32(littleEndian: field.pointee.load(ordering: .relaxed))
    }

    @inline(__always)
    func storeShared32(_ value: UInt32, at offset: Int) {
        let field = (self + offset).assumingMemoryBound(to: Atomic<UInt32>.self)
        field.pointee.store(value.littleEndian, ordering: .relaxed)
    }

    @inline(__always)
    func loadShared64(at offset: Int) -> UInt64 {
        let field = (self + offset).assumingMemoryBound(to: Atomic<UInt64>.self)
        return UInt64(littleEndian: field.pointee.load(ordering: .relaxed))
    }

    @inline(__always)
    func storeShared64(_ value: UInt64, at offset: Int) {
        let field = (self + offset).assumingMemoryBound(to: Atomic<UInt64>.self)
        field.pointee.store(value.littleEndian, ordering: .relaxed)
    }

    /// As `loadShared64`, for an address that is not aligned to 8.
    func loadSharedUnaligned64(at offset: Int) -> UInt64 {
        var value: UInt64 = 0
        for index in 0..<8 {
            let field = (self + offset + index).assumingMemoryBound(to: Atomic<UInt8>.self)
            value |= UInt64(field.pointee.load(ordering: .relaxed)) << UInt64(8 * index)
        }
        return value
    }
}
