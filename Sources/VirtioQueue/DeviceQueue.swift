// SPDX-License-Identifier: Apache-2.0
//
// The device half of a split virtqueue: virtio 1.3 "Split Virtqueues" (device requirements). This file takes chains
// from the available ring; DeviceQueue+Used.swift returns them.
//
// A batch goes: disableKicks; next … next; addUsed … addUsed; publishUsed once; needsNotification once; enableKicks,
// and on with the batch if that says so. Positions are free-running 16-bit numbers:
//
//     nextAvailable  the position of the next chain to take; rewind moves it back
//     knownAvailable the driver's index as last read: chains up to there are taken without looking again
//     nextUsed       the position of the next chain to return
//     publishedUsed  the index that the driver sees
//
// The driver is not trusted: nothing it writes ends the process, or makes the device touch memory outside the guest's.

/// The device half of a queue. Belongs to one thread at a time.
public struct DeviceQueue: ~Copyable, @unchecked Sendable {
    // Unchecked because of the pointers: the queue is their only user on this side, and it cannot be copied.

    let descriptorTable: UnsafeMutableRawPointer
    let available: AvailableRing
    let used: UsedRing
    let features: VirtqueueFeatures
    let owner: (any AnyObject & Sendable)?
    let inflight: InflightRegion?
    /// The heads that a device before this one had taken and not returned: they are taken again first, at the positions
    /// from `resubmissionStart` on.
    private var resubmission: [UInt16] = []
    private var resubmissionStart: UInt16 = 0
    /// Counts the chains taken; one that is put back is not counted until it is taken again.
    private var inflightCounter: UInt64 = 0
    /// Whether a device before this one has left its record of what was in flight.
    public private(set) var continuesRecord = false
    var nextAvailable: UInt16
    var knownAvailable: UInt16
    var nextUsed: UInt16
    var publishedUsed: UInt16
    var suppression = NotificationSuppression()

    /// Number of descriptors.
    public let size: UInt16
    /// Whether a chain may be one descriptor that points to a table (VIRTIO_F_INDIRECT_DESC).
    public var usesIndirectDescriptors: Bool { features.indirectDescriptors }
    /// Why the last malformed chain was malformed; `nil` before the first.
    public private(set) var lastDefect: ChainDefect?

    /// Takes over a queue whose memory the driver has set up.
    /// - Parameters:
    ///   - layout: where the queue is.
    ///   - features: the negotiated features.
    ///   - owner: keeps the memory that `layout` points at mapped while the queue lives, usually the `GuestMemory`.
    ///   - startIndex: position of the first chain to take (vhost-user SET_VRING_BASE). The used ring is continued
    ///     where its index says.
    ///   - inflight: where chains that are taken and not returned are recorded; `owner` keeps it mapped, too.
    ///   - resubmits: whether the chains that are recorded there are taken again, before all others. If a device has
    ///     left a record it decides where the queue stands, and not `startIndex`.
    public init(
        layout: VirtqueueLayout,
        features: VirtqueueFeatures,
        owner: (any AnyObject & Sendable)?,
        startIndex: UInt16 = 0,
        inflight: InflightRegion? = nil,
        resubmits: Bool = false
    ) {
        self.descriptorTable = layout.descriptorTable
        self.available = AvailableRing(base: layout.availableRing, mask: layout.size - 1)
        self.used = UsedRing(base: layout.usedRing, mask: layout.size - 1)
        self.size = layout.size
        self.features = features
        self.owner = owner
        self.nextAvailable = startIndex
        self.knownAvailable = startIndex
        self.nextUsed = used.acquireIndex()
        self.publishedUsed = nextUsed
        let canRecord = Int(layout.size) <= inflight?.queueSize ?? 0
        self.inflight = canRecord ? inflight : nil
        resume(resubmits: resubmits)
    }

    private mutating func resume(resubmits: Bool) {
        guard let inflight else { return }
        guard resubmits, let heads = inflight.recover(usedIndex: nextUsed) else {
            inflight.clear(usedIndex: nextUsed)
            return
        }
        continuesRecord = true
        resubmission = heads
        resubmissionStart = nextUsed
        nextAvailable = nextUsed
        knownAvailable = nextUsed
    }

    /// The head at a position: that of the available ring, but for what is taken again.
    @inline(__always)
    private mutating func head(at position: UInt16) -> UInt16 {
        resubmission.isEmpty ? available.head(at: position) : resubmittedHead(at: position)
    }

    @inline(never)
    private mutating func resubmittedHead(at position: UInt16) -> UInt16 {
        let offset = Int(position &- resubmissionStart)
        if offset < resubmission.count { return resubmission[offset] }
        // All are taken; when all are returned, too, none of them can be put back any more.
        if Int(nextUsed &- resubmissionStart) >= resubmission.count { resubmission = [] }
        return available.head(at: position)
    }

    @inline(__always)
    private mutating func recordTaken(_ head: UInt16) {
        inflight?.take(head, counter: inflightCounter)
        inflightCounter &+= 1
    }

    /// Takes the next chain and appends its memory to `segments`.
    ///
    /// `.full` leaves queue and list as they were; it is never the answer for an empty list: a chain that does not fit
    /// there is malformed.
    /// - Throws: when the driver's index or a head is impossible. Nothing is taken, and the queue should be stopped.
    public mutating func next(
        memory: GuestMemory, into segments: inout SegmentList
    ) throws(VirtqueueError) -> NextChain {
        if nextAvailable == knownAvailable {
            let index = available.acquireIndex()
            guard index != nextAvailable else { return .empty }
            guard index &- nextAvailable <= size else {
                throw .availableIndexJump(next: nextAvailable, index: index)
            }
            knownAvailable = index
        }
        let head = head(at: nextAvailable)
        guard head < size else { throw .headOutOfRange(head) }

        let start = segments.count
        var walk = ChainWalk()
        let outcome = walk.run(
            head: head, table: descriptorTable, size: Int(size), allowsIndirect: features.indirectDescriptors,
            memory: memory, into: &segments)
        switch outcome {
        case .complete:
            recordTaken(head)
            nextAvailable &+= 1
            let middle = walk.writableStart ?? segments.count
            return .chain(
                DescriptorChain(
                    head: head, readable: start..<middle, writable: middle..<segments.count,
                    readableByteCount: walk.readableByteCount, writableByteCount: walk.writableByteCount))
        case .full where start > 0:
            segments.truncate(to: start)
            return .full
        case .full:
            lastDefect = .tooManySegments
        case .defect(let defect):
            lastDefect = defect
        }
        segments.truncate(to: start)
        recordTaken(head)
        nextAvailable &+= 1
        return .malformed(head: head)
    }

    /// Puts back the last `count` chains that `next` took: they will be taken again, in the same order. They must not
    /// have been returned, and the segments that they had in a list must no longer be used. They stay recorded as in
    /// flight: a device that came after a kill would take them again just the same.
    public mutating func rewind(_ count: Int) {
        precondition(count >= 0 && count <= Int(size), "more chains put back than the queue has")
        nextAvailable &-= UInt16(count)
        inflightCounter &-= UInt64(count)
    }

    /// Tells the driver that kicks are not needed for now: the device is at work and will look at the ring by itself.
    /// Only a hint.
    public mutating func disableKicks() {
        // With event index there is nothing to do: avail_event stays where it is, behind what the driver adds from now
        // on, so that the driver does not cross it again for 65536 entries.
        if !features.eventIndex {
            used.flags = UsedRing.noNotifyFlag
        }
    }

    /// Asks the driver for a kick on the next chain. `true`: more is available already, perhaps without a kick; go on
    /// with `next`.
    public mutating func enableKicks() -> Bool {
        if features.eventIndex {
            used.availableEvent = nextAvailable
        } else {
            used.flags = 0
        }
        notificationFence()
        return available.acquireIndex() != nextAvailable
    }

    /// Number of chains that could be taken now, at most the queue size.
    public var availableCount: Int {
        Int(min(available.acquireIndex() &- nextAvailable, size))
    }

    /// Position of the next chain to take: the answer to vhost-user GET_VRING_BASE, after chains that were not used
    /// have been put back.
    public var nextAvailableIndex: UInt16 { nextAvailable }
}
