// SPDX-License-Identifier: Apache-2.0
//
// Where a ring lies: vhost-user.rst "A vring address description".
//
//   0  index  u32     4  flags  u32     8  descriptor  u64     16  used  u64     24  available  u64     32  log  u64
//
// Alignment and size are the queue's to check: it alone knows both.

/// The addresses of the three parts of a ring, in user addresses of the front-end.
public struct VringAddress: Hashable, Sendable {
    /// Bytes of the description on the wire, the queue's index included.
    static let encodedByteCount = 40

    static let logFlag: UInt32 = 1 << 0

    /// User address of the descriptor table.
    public var descriptorTable: UInt64
    /// User address of the used ring.
    public var usedRing: UInt64
    /// User address of the available ring.
    public var availableRing: UInt64
    /// Guest address at which writes to the used ring are logged; without meaning unless `logsUsedRing`.
    public var logGuestAddress: UInt64
    /// VHOST_VRING_F_LOG. To be ignored unless LOG_SHMFD is negotiated.
    public var logsUsedRing: Bool

    /// The addresses of a ring.
    public init(
        descriptorTable: UInt64, usedRing: UInt64, availableRing: UInt64, logGuestAddress: UInt64 = 0,
        logsUsedRing: Bool = false
    ) {
        self.descriptorTable = descriptorTable
        self.usedRing = usedRing
        self.availableRing = availableRing
        self.logGuestAddress = logGuestAddress
        self.logsUsedRing = logsUsedRing
    }

    /// Reads the description from the start of `bytes`, which holds all of it.
    init(parsing bytes: RawSpan) {
        let flags: UInt32 = bytes.littleEndian(at: 4)
        logsUsedRing = flags & Self.logFlag != 0
        descriptorTable = bytes.littleEndian(at: 8)
        usedRing = bytes.littleEndian(at: 16)
        availableRing = bytes.littleEndian(at: 24)
        logGuestAddress = bytes.littleEndian(at: 32)
    }

    func emit(queue: Int, to bytes: inout [UInt8]) {
        bytes.appendLittleEndian(UInt32(truncatingIfNeeded: queue))
        bytes.appendLittleEndian(logsUsedRing ? Self.logFlag : 0)
        bytes.appendLittleEndian(descriptorTable)
        bytes.appendLittleEndian(usedRing)
        bytes.appendLittleEndian(availableRing)
        bytes.appendLittleEndian(logGuestAddress)
    }
}
