// SPDX-License-Identifier: Apache-2.0
//
// From a head to the segments of its chain: virtio 1.3 "Split Virtqueues / The Virtqueue Descriptor Table" and "/
// Indirect Descriptors". The guest may be hostile and may change the tables during the walk: each descriptor is copied
// once, each table has a budget, and nothing is looked at twice.

/// One walk along a chain.
struct ChainWalk {
    /// The most descriptors of an indirect table when the queue is smaller than that: Linux makes indirect chains
    /// longer than a small queue, and 1024 is the most segments that one system call takes (IOV_MAX).
    static let indirectDescriptorCount = 1024

    /// The most bytes of a chain: virtio 1.3 "The Virtqueue Descriptor Table" (driver MUST NOT exceed 2^32 in total).
    static let maximumByteCount = 1 << 32

    enum Outcome {
        case complete
        case full
        case defect(ChainDefect)
    }

    private(set) var readableByteCount = 0
    private(set) var writableByteCount = 0
    /// Index in the list of the first writable segment, once there is one.
    private(set) var writableStart: Int?

    /// Appends the segments of the chain at `head`, which is inside the table of `size` descriptors.
    /// `memory` is a parameter and not stored: a stored reference would cost a retain and a release for each chain.
    mutating func run(
        head: UInt16, table: UnsafeMutableRawPointer, size: Int, allowsIndirect: Bool, memory: GuestMemory,
        into segments: inout SegmentList
    ) -> Outcome {
        var remaining = size
        var index = Int(head)
        while remaining > 0 {
            remaining -= 1
            let descriptor = Descriptor(loadingFrom: table + index * Descriptor.byteCount)
            if descriptor.isIndirect {
                guard allowsIndirect else { return .defect(.indirectNotNegotiated) }
                guard !descriptor.hasNext else { return .defect(.indirectWithNext) }
                return runIndirect(descriptor, size: size, memory: memory, into: &segments)
            }
            let outcome = append(descriptor, memory: memory, to: &segments)
            guard case .complete = outcome, descriptor.hasNext else { return outcome }
            index = Int(descriptor.next)
            guard index < size else { return .defect(.nextOutOfRange) }
        }
        return .defect(.loop)
    }

    /// Appends the segments of the table that `reference` describes. Its write flag has no meaning (device MUST
    /// ignore).
    private mutating func runIndirect(
        _ reference: Descriptor, size: Int, memory: GuestMemory, into segments: inout SegmentList
    ) -> Outcome {
        let byteCount = Int(reference.byteCount)
        let count = byteCount / Descriptor.byteCount
        guard byteCount % Descriptor.byteCount == 0, count > 0, count <= max(size, Self.indirectDescriptorCount) else {
            return .defect(.indirectTableLength)
        }
        // Nearly always inside one region; otherwise each descriptor is looked up by itself.
        let table = memory.resolve(reference.address, byteCount: byteCount)
        guard table != nil || memory.forEachSlice(reference.address, byteCount: byteCount, { _ in true }) else {
            return .defect(.indirectTableOutsideMemory)
        }
        var remaining = count
        var index = 0
        while remaining > 0 {
            remaining -= 1
            let offset = index * Descriptor.byteCount
            let address = reference.address &+ UInt64(offset)
            guard
                let pointer = table.map({ $0 + offset }) ?? memory.resolve(address, byteCount: Descriptor.byteCount)
            else {
                return .defect(.indirectTableOutsideMemory)
            }
            let descriptor = Descriptor(loadingFrom: pointer)
            guard !descriptor.isIndirect else { return .defect(.indirectInIndirect) }
            let outcome = append(descriptor, memory: memory, to: &segments)
            guard case .complete = outcome, descriptor.hasNext else { return outcome }
            index = Int(descriptor.next)
            guard index < count else { return .defect(.nextOutOfRange) }
        }
        return .defect(.loop)
    }

    /// Appends the memory of one descriptor, in several segments where it crosses regions.
    @inline(__always)
    private mutating func append(
        _ descriptor: Descriptor, memory: GuestMemory, to segments: inout SegmentList
    ) -> Outcome {
        // A buffer of no bytes carries nothing: neither its address nor its place in the order matters.
        guard descriptor.byteCount > 0 else { return .complete }
        let byteCount = Int(descriptor.byteCount)
        // Cannot overflow: both sums are at most 2^32 here, and a length is less than that.
        guard readableByteCount + writableByteCount + byteCount <= Self.maximumByteCount else {
            return .defect(.tooManyBytes)
        }
        if descriptor.isWritable {
            writableByteCount += byteCount
            writableStart = writableStart ?? segments.count
        } else {
            guard writableStart == nil else { return .defect(.readableAfterWritable) }
            readableByteCount += byteCount
        }
        var address = descriptor.address
        var remaining = byteCount
        while remaining > 0 {
            guard let slice = memory.slice(at: address, upTo: remaining) else { return .defect(.outsideMemory) }
            guard segments.append(slice) else { return .full }
            remaining -= slice.count
            address &+= UInt64(slice.count)
        }
        return .complete
    }
}
