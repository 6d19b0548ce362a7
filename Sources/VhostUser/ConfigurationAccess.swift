// SPDX-License-Identifier: Apache-2.0
//
// Payloads that are small records: access to the virtio configuration space (vhost-user.rst "Virtio device config
// space") and the area of the dirty page log ("Log description").
//
//   configuration:  0  offset  u32     4  size  u32     8  flags  u32     12  size bytes
//   log:            0  log size  u64     8  log offset  u64

/// A range of a device's configuration space.
struct ConfigurationAccess: Equatable {
    static let headerByteCount = 12
    static let migrationFlag: UInt32 = 1

    var offset: UInt32
    var byteCount: UInt32
    var flags: UInt32

    init(offset: UInt32, byteCount: UInt32, flags: UInt32 = 0) {
        self.offset = offset
        self.byteCount = byteCount
        self.flags = flags
    }

    /// Reads 12 bytes from the start of `bytes`, which holds them.
    init(parsing bytes: RawSpan) {
        offset = bytes.littleEndian(at: 0)
        byteCount = bytes.littleEndian(at: 4)
        flags = bytes.littleEndian(at: 8)
    }

    func emit(to bytes: inout [UInt8]) {
        bytes.appendLittleEndian(offset)
        bytes.appendLittleEndian(byteCount)
        bytes.appendLittleEndian(flags)
    }
}

/// The shared memory area in which dirty pages are logged.
public struct LogArea: Hashable, Sendable {
    static let encodedByteCount = 16

    /// Size in bytes.
    public var byteCount: UInt64
    /// Offset in the descriptor's file at which guest address 0 would be logged, in bytes.
    public var mmapOffset: UInt64

    /// An area of `byteCount` bytes at `mmapOffset` of its file.
    public init(byteCount: UInt64, mmapOffset: UInt64) {
        self.byteCount = byteCount
        self.mmapOffset = mmapOffset
    }
}
