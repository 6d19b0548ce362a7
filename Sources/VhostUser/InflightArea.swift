// SPDX-License-Identifier: Apache-2.0
//
// The memory in which a back-end records the buffers that it has taken and not returned: vhost-user.rst "Inflight
// description", "VHOST_USER_GET_INFLIGHT_FD", "VHOST_USER_SET_INFLIGHT_FD".
//
//   0  mmap size  u64     8  mmap offset  u64     16  num queues  u16     18  queue size  u16     20  padding  u32
//
// The padding is C's: front-ends send it, and QEMU and crosvm want it in the reply.

/// Where the record of buffers in flight lies. The descriptor to map it from travels beside the message.
public struct InflightArea: Hashable, Sendable {
    /// Bytes that are needed to read one.
    static let minimumByteCount = 20
    /// Bytes of one as it is sent.
    public static let encodedByteCount = 24

    /// Bytes of the area; 0 in a reply that has none, and in a request for one.
    public var byteCount: UInt64
    /// Offset of its first byte in the file.
    public var mmapOffset: UInt64
    /// Queues with a region in it, one after another.
    public var queueCount: Int
    /// Descriptors that each region has room for.
    public var queueSize: Int

    /// An area; size and offset in bytes.
    public init(byteCount: UInt64 = 0, mmapOffset: UInt64 = 0, queueCount: Int, queueSize: Int) {
        self.byteCount = byteCount
        self.mmapOffset = mmapOffset
        self.queueCount = queueCount
        self.queueSize = queueSize
    }

    /// Reads `minimumByteCount` bytes at the start of `payload`, which has them.
    init(parsing payload: RawSpan) {
        byteCount = payload.littleEndian(at: 0)
        mmapOffset = payload.littleEndian(at: 8)
        queueCount = Int(payload.littleEndian(at: 16, as: UInt16.self))
        queueSize = Int(payload.littleEndian(at: 18, as: UInt16.self))
    }

    func emit(to bytes: inout [UInt8]) {
        bytes.appendLittleEndian(byteCount)
        bytes.appendLittleEndian(mmapOffset)
        bytes.appendLittleEndian(UInt16(truncatingIfNeeded: queueCount))
        bytes.appendLittleEndian(UInt16(truncatingIfNeeded: queueSize))
        bytes.appendLittleEndian(UInt32(0))
    }
}
