// SPDX-License-Identifier: Apache-2.0
//
// Where the parts of a queue are, and how large: virtio 1.3 "Split Virtqueues" (sizes and alignments) and
// "Reserved Feature Bits" (the two features that change how a split queue is used).

/// Size of a queue and the addresses, in this process, of its three parts. Values of this type are valid by
/// construction.
public struct VirtqueueLayout: @unchecked Sendable {
    // Unchecked because of the pointers: addresses of memory that is shared by purpose.

    /// The largest queue size that the standard allows.
    public static let maximumSize = 32768

    /// Number of descriptors: a power of two, 1...32768.
    public let size: UInt16
    /// The descriptor table, aligned to 16.
    public let descriptorTable: UnsafeMutableRawPointer
    /// The available ring, aligned to 2.
    public let availableRing: UnsafeMutableRawPointer
    /// The used ring, aligned to 4.
    public let usedRing: UnsafeMutableRawPointer

    /// Which address space ring addresses are in.
    public enum AddressSpace: Sendable {
        /// Guest physical addresses.
        case guest
        /// The front-end's own addresses (vhost-user.rst "A vring address description").
        case user
    }

    /// A layout of parts that the caller has already resolved; each must have the length that the static functions
    /// tell.
    public init(
        size: Int,
        descriptorTable: UnsafeMutableRawPointer,
        availableRing: UnsafeMutableRawPointer,
        usedRing: UnsafeMutableRawPointer
    ) throws(VirtqueueError) {
        self.size = try Self.checkedSize(size)
        guard UInt(bitPattern: descriptorTable) % 16 == 0 else { throw .misaligned(.descriptorTable) }
        guard UInt(bitPattern: availableRing) % 2 == 0 else { throw .misaligned(.availableRing) }
        guard UInt(bitPattern: usedRing) % 4 == 0 else { throw .misaligned(.usedRing) }
        self.descriptorTable = descriptorTable
        self.availableRing = availableRing
        self.usedRing = usedRing
    }

    /// A layout of parts given by their addresses in `memory`, which must stay alive as long as a queue uses the
    /// layout.
    public init(
        size: Int,
        descriptorTable: UInt64,
        availableRing: UInt64,
        usedRing: UInt64,
        space: AddressSpace,
        memory: GuestMemory
    ) throws(VirtqueueError) {
        let count = Int(try Self.checkedSize(size))
        func resolve(_ address: UInt64, _ byteCount: Int, _ part: VirtqueueError.Part) throws(VirtqueueError)
            -> UnsafeMutableRawPointer
        {
            let resolved =
                switch space {
                case .guest: memory.resolve(address, byteCount: byteCount)
                case .user: memory.resolveUserAddress(address, byteCount: byteCount)
                }
            guard let resolved else { throw .outsideMemory(part) }
            return resolved
        }
        try self.init(
            size: size,
            descriptorTable: resolve(descriptorTable, Self.descriptorTableByteCount(size: count), .descriptorTable),
            availableRing: resolve(availableRing, Self.availableRingByteCount(size: count), .availableRing),
            usedRing: resolve(usedRing, Self.usedRingByteCount(size: count), .usedRing)
        )
    }

    /// Bytes of a descriptor table: 16 for each descriptor.
    public static func descriptorTableByteCount(size: Int) -> Int { 16 * size }

    /// Bytes of an available ring: flags, index, 2 for each entry, used_event.
    public static func availableRingByteCount(size: Int) -> Int { 6 + 2 * size }

    /// Bytes of a used ring: flags, index, 8 for each element, avail_event.
    public static func usedRingByteCount(size: Int) -> Int { 6 + 8 * size }

    private static func checkedSize(_ size: Int) throws(VirtqueueError) -> UInt16 {
        guard size >= 1, size <= maximumSize, size & (size - 1) == 0 else { throw .invalidSize(size) }
        return UInt16(size)
    }
}

/// The negotiated features that change how a split queue is used.
public struct VirtqueueFeatures: Equatable, Sendable {
    /// Feature bit 28, VIRTIO_F_INDIRECT_DESC.
    public static let indirectDescriptorsBit: UInt64 = 1 << 28
    /// Feature bit 29, VIRTIO_F_EVENT_IDX.
    public static let eventIndexBit: UInt64 = 1 << 29

    /// Notifications are suppressed by index instead of by flag.
    public var eventIndex: Bool
    /// A descriptor may refer to a table of descriptors.
    public var indirectDescriptors: Bool

    /// Names the features in force.
    public init(eventIndex: Bool, indirectDescriptors: Bool) {
        self.eventIndex = eventIndex
        self.indirectDescriptors = indirectDescriptors
    }

    /// Takes the features in force from the negotiated feature bits.
    public init(negotiated bits: UInt64) {
        self.init(
            eventIndex: bits & Self.eventIndexBit != 0,
            indirectDescriptors: bits & Self.indirectDescriptorsBit != 0
        )
    }
}
