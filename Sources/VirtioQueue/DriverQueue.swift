// SPDX-License-Identifier: Apache-2.0
//
// The driver half of a split virtqueue: virtio 1.3 "Split Virtqueues / Supplying Buffers to The Device". This file adds
// chains; DriverQueue+Used.swift takes them back.
//
// What the driver relies on (free list, tokens, lengths) is kept in private memory: the device can write to the tables
// too, and is not trusted to leave them alone.
//
// Invariants: free descriptors form a list through `link` from `freeHead`, `freeCount` long; the descriptors of a chain
// in flight form a list through `link` from its head, `descriptorCount` long; only a head in flight has descriptorCount
// > 0.

/// A buffer of a chain, in guest addresses.
public struct GuestBuffer: Equatable, Sendable {
    /// Guest address of the first byte.
    public var guestAddress: UInt64
    /// Length in bytes.
    public var byteCount: UInt32

    /// Names `byteCount` bytes at `guestAddress`.
    public init(guestAddress: UInt64, byteCount: UInt32) {
        self.guestAddress = guestAddress
        self.byteCount = byteCount
    }
}

/// Memory for indirect tables, one for each head: table `n` starts at `n * 16 * descriptorsPerTable`.
public struct IndirectTables: @unchecked Sendable {
    // Unchecked because of the pointer: an address of memory that is shared by purpose.

    /// Guest address of the first table.
    public let guestAddress: UInt64
    /// Address of the first table in this process, aligned to 16.
    public let base: UnsafeMutableRawPointer
    /// Number of descriptors in a table.
    public let descriptorsPerTable: Int

    /// Describes memory that the caller keeps mapped.
    public init(guestAddress: UInt64, base: UnsafeMutableRawPointer, descriptorsPerTable: Int) {
        precondition(UInt(bitPattern: base) % 16 == 0, "indirect tables must be aligned to 16")
        precondition(descriptorsPerTable > 0 && descriptorsPerTable <= VirtqueueLayout.maximumSize)
        self.guestAddress = guestAddress
        self.base = base
        self.descriptorsPerTable = descriptorsPerTable
    }

    /// Bytes needed for the tables of a queue.
    public static func byteCount(queueSize: Int, descriptorsPerTable: Int) -> Int {
        queueSize * descriptorsPerTable * Descriptor.byteCount
    }
}

/// The driver half of a queue. Belongs to one thread at a time.
public struct DriverQueue: ~Copyable, @unchecked Sendable {
    // Unchecked because of the pointers: the queue is their only user on this side, and it cannot be copied.

    struct Slot {
        var token: Int
        var writableByteCount: UInt32
        var link: UInt16
        var descriptorCount: UInt16
    }

    let descriptorTable: UnsafeMutableRawPointer
    let available: AvailableRing
    let used: UsedRing
    let features: VirtqueueFeatures
    let indirectTables: IndirectTables?
    let owner: (any AnyObject & Sendable)?
    let slots: UnsafeMutablePointer<Slot>
    var freeHead: UInt16 = 0
    var freeCount: UInt16
    var chainCount: UInt16 = 0
    var nextAvailable: UInt16 = 0
    var publishedAvailable: UInt16 = 0
    var nextUsed: UInt16 = 0
    var knownUsed: UInt16 = 0
    var suppression = NotificationSuppression()

    /// Number of descriptors.
    public let size: UInt16

    /// Sets up a queue in the caller's memory, which is zeroed. The device must not use it yet.
    /// - Parameters:
    ///   - layout: where the queue is.
    ///   - features: the negotiated features.
    ///   - indirectTables: used for chains of two or more buffers that fit a table, if the feature is negotiated.
    ///   - owner: keeps the memory of queue and tables mapped while the queue lives.
    public init(
        layout: VirtqueueLayout,
        features: VirtqueueFeatures,
        indirectTables: IndirectTables? = nil,
        owner: (any AnyObject & Sendable)?
    ) {
        let size = Int(layout.size)
        func zero(_ part: UnsafeMutableRawPointer, _ byteCount: Int) {
            part.initializeMemory(as: UInt8.self, repeating: 0, count: byteCount)
        }
        zero(layout.descriptorTable, VirtqueueLayout.descriptorTableByteCount(size: size))
        zero(layout.availableRing, VirtqueueLayout.availableRingByteCount(size: size))
        zero(layout.usedRing, VirtqueueLayout.usedRingByteCount(size: size))
        self.descriptorTable = layout.descriptorTable
        self.available = AvailableRing(base: layout.availableRing, mask: layout.size - 1)
        self.used = UsedRing(base: layout.usedRing, mask: layout.size - 1)
        self.features = features
        self.indirectTables = features.indirectDescriptors ? indirectTables : nil
        self.owner = owner
        self.size = layout.size
        self.freeCount = layout.size
        self.slots = .allocate(capacity: size)
        for index in 0..<size {
            let link = UInt16(truncatingIfNeeded: index + 1)
            (slots + index).initialize(to: Slot(token: 0, writableByteCount: 0, link: link, descriptorCount: 0))
        }
    }

    deinit {
        slots.deallocate()
    }

    /// Adds a chain, not yet visible to the device; its buffers belong to the device until `popUsed` gives back
    /// `token`.
    /// - Parameters:
    ///   - readable: buffers that the device reads.
    ///   - writable: buffers that the device writes. At least one buffer in total.
    ///   - token: the caller's name for the chain.
    /// - Returns: `false`, with nothing changed, when there are not enough free descriptors.
    public mutating func add(
        readable: UnsafeBufferPointer<GuestBuffer>, writable: UnsafeBufferPointer<GuestBuffer>, token: Int
    ) -> Bool {
        let count = readable.count + writable.count
        precondition(count > 0, "a chain needs at least one buffer")
        let head = freeHead
        let descriptorCount: UInt16
        if count > 1, let tables = indirectTables, count <= tables.descriptorsPerTable {
            guard freeCount > 0 else { return false }
            descriptorCount = 1
            freeHead = slots[Int(head)].link
            writeIndirect(tables, head: head, readable: readable, writable: writable)
        } else {
            guard count <= Int(freeCount) else { return false }
            descriptorCount = UInt16(count)
            writeDirect(readable: readable, writable: writable)
        }
        freeCount -= descriptorCount
        chainCount += 1
        var writableByteCount: UInt64 = 0
        for buffer in writable {
            writableByteCount &+= UInt64(buffer.byteCount)
        }
        slots[Int(head)].token = token
        slots[Int(head)].writableByteCount = UInt32(clamping: writableByteCount)
        slots[Int(head)].descriptorCount = descriptorCount
        available.setHead(head, at: nextAvailable)
        nextAvailable &+= 1
        return true
    }

    /// As the other `add`, for callers that have arrays.
    public mutating func add(readable: [GuestBuffer], writable: [GuestBuffer], token: Int) -> Bool {
        readable.withUnsafeBufferPointer { readable in
            writable.withUnsafeBufferPointer { writable in
                add(readable: readable, writable: writable, token: token)
            }
        }
    }

    /// Makes all added chains visible to the device: one store of the index.
    public mutating func publish() {
        guard nextAvailable != publishedAvailable else { return }
        available.releaseIndex(nextAvailable)
        suppression.add(nextAvailable &- publishedAvailable)
        publishedAvailable = nextAvailable
    }

    /// Decides, for all chains published since the last decision, whether the device wants a kick.
    /// With event index the first decision that covers any chain is always `true`.
    public mutating func needsKick() -> Bool {
        guard suppression.undecidedCount > 0 else { return false }
        notificationFence()
        if features.eventIndex {
            return suppression.decide(event: used.availableEvent, index: publishedAvailable)
        }
        return suppression.decide(suppressed: used.flags & UsedRing.noNotifyFlag != 0)
    }

    /// The device's index of the used ring: where a device that returns chains in order goes on after a break.
    public var usedIndex: UInt16 { used.acquireIndex() }

    /// Number of free descriptors.
    public var freeDescriptorCount: Int { Int(freeCount) }

    /// Number of chains added and not yet taken back.
    public var inFlightCount: Int { Int(chainCount) }

    /// The descriptor at `position` of a chain of `readableCount` readable and then writable buffers.
    @inline(__always)
    private static func descriptor(
        at position: Int, readable: UnsafeBufferPointer<GuestBuffer>, writable: UnsafeBufferPointer<GuestBuffer>,
        next: UInt16
    ) -> Descriptor {
        let isReadable = position < readable.count
        let buffer = isReadable ? readable[position] : writable[position - readable.count]
        let isLast = position + 1 == readable.count + writable.count
        return Descriptor(
            address: buffer.guestAddress,
            byteCount: buffer.byteCount,
            flags: (isReadable ? 0 : Descriptor.writeFlag) | (isLast ? 0 : Descriptor.nextFlag),
            next: isLast ? 0 : next
        )
    }

    /// Writes the chain to the descriptors at the front of the free list, and moves its front behind them.
    private mutating func writeDirect(
        readable: UnsafeBufferPointer<GuestBuffer>, writable: UnsafeBufferPointer<GuestBuffer>
    ) {
        for position in 0..<(readable.count + writable.count) {
            let link = slots[Int(freeHead)].link
            Self.descriptor(at: position, readable: readable, writable: writable, next: link)
                .store(to: descriptorTable + Int(freeHead) * Descriptor.byteCount)
            freeHead = link
        }
    }

    /// Writes the chain to the table of `head`, and a descriptor that refers to it.
    private func writeIndirect(
        _ tables: IndirectTables, head: UInt16, readable: UnsafeBufferPointer<GuestBuffer>,
        writable: UnsafeBufferPointer<GuestBuffer>
    ) {
        let count = readable.count + writable.count
        let offset = Int(head) * tables.descriptorsPerTable * Descriptor.byteCount
        for position in 0..<count {
            Self.descriptor(at: position, readable: readable, writable: writable, next: UInt16(position + 1))
                .store(to: tables.base + offset + position * Descriptor.byteCount)
        }
        let reference = Descriptor(
            address: tables.guestAddress &+ UInt64(offset),
            byteCount: UInt32(count * Descriptor.byteCount),
            flags: Descriptor.indirectFlag,
            next: 0
        )
        reference.store(to: descriptorTable + Int(head) * Descriptor.byteCount)
    }
}
