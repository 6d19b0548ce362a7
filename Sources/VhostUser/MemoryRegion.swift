// SPDX-License-Identifier: Apache-2.0
//
// A region of guest memory as the front-end describes it, and the rules for a set of them: vhost-user.rst
// "Memory region description", "Memory access".
//
//   0  guest address  u64     8  size  u64     16  user address  u64     24  mmap offset  u64
//
// Invariants of an accepted set: no region is empty, none wraps around, and no two share a guest or a user address,
// so that either kind of address resolves to one place.

/// One region of guest memory. The descriptor to map it from travels beside the message.
public struct MemoryRegion: Hashable, Sendable {
    /// Bytes of a region on the wire.
    public static let encodedByteCount = 32

    /// The most regions of one SET_MEM_TABLE: the array of the wire format has eight places.
    public static let tableLimit = 8

    /// Guest physical address of the first byte; need not start at 0.
    public var guestAddress: UInt64
    /// Size in bytes.
    public var byteCount: UInt64
    /// The front-end's own address of the first byte; ring addresses are given in these.
    public var userAddress: UInt64
    /// Offset of the first byte in the mapped file, in bytes.
    public var mmapOffset: UInt64

    /// A region; sizes and offsets in bytes. Whether it makes sense is checked where it is received.
    public init(guestAddress: UInt64, byteCount: UInt64, userAddress: UInt64, mmapOffset: UInt64) {
        self.guestAddress = guestAddress
        self.byteCount = byteCount
        self.userAddress = userAddress
        self.mmapOffset = mmapOffset
    }

    /// Reads 32 bytes at `offset`, which lie inside of `bytes`.
    init(parsing bytes: RawSpan, at offset: Int) {
        guestAddress = bytes.littleEndian(at: offset)
        byteCount = bytes.littleEndian(at: offset + 8)
        userAddress = bytes.littleEndian(at: offset + 16)
        mmapOffset = bytes.littleEndian(at: offset + 24)
    }

    func emit(to bytes: inout [UInt8]) {
        bytes.appendLittleEndian(guestAddress)
        bytes.appendLittleEndian(byteCount)
        bytes.appendLittleEndian(userAddress)
        bytes.appendLittleEndian(mmapOffset)
    }

    /// Whether `other` names this region: vhost-user.rst "VHOST_USER_REM_MEM_REG" ignores the mmap offset.
    public func isIdentified(by other: MemoryRegion) -> Bool {
        guestAddress == other.guestAddress && userAddress == other.userAddress && byteCount == other.byteCount
    }

    /// Whether no address of it wraps around. The file offset is checked as the signed number that mmap(2) takes.
    var isWellFormed: Bool {
        byteCount > 0
            && !guestAddress.addingReportingOverflow(byteCount).overflow
            && !userAddress.addingReportingOverflow(byteCount).overflow
            && mmapOffset <= UInt64(Int64.max) && byteCount <= UInt64(Int64.max) - mmapOffset
    }

    /// Both regions must be well formed.
    func overlaps(_ other: MemoryRegion) -> Bool {
        Self.overlap(guestAddress, byteCount, other.guestAddress, other.byteCount)
            || Self.overlap(userAddress, byteCount, other.userAddress, other.byteCount)
    }

    private static func overlap(_ a: UInt64, _ aCount: UInt64, _ b: UInt64, _ bCount: UInt64) -> Bool {
        a < b &+ bCount && b < a &+ aCount
    }
}

extension [MemoryRegion] {
    /// Whether `region` may join these.
    func checkAddition(of region: MemoryRegion) throws(VhostUserError) {
        guard region.isWellFormed else { throw .invalidMemoryRegion(region) }
        for other in self where region.overlaps(other) { throw .overlappingMemoryRegion(region) }
    }
}
