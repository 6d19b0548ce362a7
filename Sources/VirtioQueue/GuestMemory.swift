// SPDX-License-Identifier: Apache-2.0
//
// The guest's memory as this process sees it: the regions of one memory table (vhost-user.rst "Memory region
// description"). Guest addresses are what descriptors hold; user addresses, the front-end's own, are what
// SET_VRING_ADDR holds.
//
// Invariants: regions are sorted by guest address, do not overlap, are not empty, and no region's end exceeds 2^64 - 1.
// A table is immutable: a new memory table is a new object, and the old mappings live as long as somebody still holds
// the old one. This file maps nothing; whoever made a mapping passes its owner along.

/// Why a set of regions is not a memory table.
public enum GuestMemoryError: Error, Equatable, Sendable {
    /// A region of zero bytes at this guest address.
    case emptyRegion(guestAddress: UInt64)
    /// A region whose guest or user addresses run past the end of the address space, or which is larger than `Int.max`
    /// bytes.
    case addressOverflow(guestAddress: UInt64)
    /// The regions at these two guest addresses overlap.
    case overlap(UInt64, UInt64)
    /// More than `GuestMemory.maximumRegionCount` regions.
    case tooManyRegions(Int)
}

/// An immutable table of the guest's memory regions.
public final class GuestMemory: @unchecked Sendable {
    // Unchecked because of the pointers: all stored state is immutable after `init`, and owners are `Sendable`.

    /// The most regions of one table: what QEMU and the kernel's vhost accept as memory slots, so no front-end needs
    /// more.
    public static let maximumRegionCount = 509

    /// One region of guest memory, mapped into this process.
    public struct Region: @unchecked Sendable {
        // Unchecked because of `base`: an address of memory shared between threads by purpose.

        /// Guest physical address of the first byte. Does not have to start at zero.
        public let guestAddress: UInt64
        /// Length in bytes.
        public let byteCount: UInt64
        /// Address of the first byte in the front-end's address space.
        public let userAddress: UInt64
        /// Address of the first byte in this process.
        public let base: UnsafeMutableRawPointer
        /// Keeps the mapping alive; released with the last table that holds the region.
        public let owner: (any AnyObject & Sendable)?

        /// Describes a region. `userAddress` matters only where rings are named by user address (vhost-user).
        public init(
            guestAddress: UInt64,
            byteCount: UInt64,
            userAddress: UInt64 = 0,
            base: UnsafeMutableRawPointer,
            owner: (any AnyObject & Sendable)? = nil
        ) {
            self.guestAddress = guestAddress
            self.byteCount = byteCount
            self.userAddress = userAddress
            self.base = base
            self.owner = owner
        }
    }

    /// What a look-up needs of a region: 24 bytes, so that four regions are in two cache lines.
    struct Entry {
        let guestAddress: UInt64
        let byteCount: UInt64
        let base: UnsafeMutableRawPointer
    }

    /// Above this many regions a binary search takes over from the scan.
    static let scannedRegionCount = 4

    /// The regions, sorted by guest address.
    public let regions: [Region]
    private let entries: UnsafeMutablePointer<Entry>
    private let entryCount: Int

    /// Makes a table of `regions`, given in any order.
    public init(regions: [Region]) throws(GuestMemoryError) {
        guard regions.count <= Self.maximumRegionCount else {
            throw .tooManyRegions(regions.count)
        }
        let sorted = regions.sorted { $0.guestAddress < $1.guestAddress }
        for (index, region) in sorted.enumerated() {
            guard region.byteCount > 0 else {
                throw .emptyRegion(guestAddress: region.guestAddress)
            }
            guard
                region.byteCount <= UInt64(Int.max),
                !region.guestAddress.addingReportingOverflow(region.byteCount).overflow,
                !region.userAddress.addingReportingOverflow(region.byteCount).overflow
            else {
                throw .addressOverflow(guestAddress: region.guestAddress)
            }
            // The previous region was checked in the round before: its end does not overflow.
            if index > 0, sorted[index - 1].guestAddress + sorted[index - 1].byteCount > region.guestAddress {
                throw .overlap(sorted[index - 1].guestAddress, region.guestAddress)
            }
        }
        self.regions = sorted
        self.entryCount = sorted.count
        self.entries = .allocate(capacity: max(sorted.count, 1))
        for (index, region) in sorted.enumerated() {
            let entry = Entry(guestAddress: region.guestAddress, byteCount: region.byteCount, base: region.base)
            (entries + index).initialize(to: entry)
        }
    }

    deinit {
        entries.deallocate()
    }

    /// The address in this process of `byteCount` bytes at `guestAddress`, or `nil` unless all of them lie inside one
    /// region.
    public func resolve(_ guestAddress: UInt64, byteCount: Int) -> UnsafeMutableRawPointer? {
        guard byteCount >= 0, let index = regionIndex(of: guestAddress) else { return nil }
        let entry = entries[index]
        let offset = guestAddress &- entry.guestAddress
        guard UInt64(byteCount) <= entry.byteCount &- offset else { return nil }
        return entry.base + Int(offset)
    }

    /// The address in this process of `byteCount` bytes at the front-end's address `userAddress`, or `nil` unless all
    /// of them lie inside one region. For ring addresses: not meant for the data path.
    public func resolveUserAddress(_ userAddress: UInt64, byteCount: Int) -> UnsafeMutableRawPointer? {
        guard byteCount >= 0 else { return nil }
        for region in regions {
            let offset = userAddress &- region.userAddress
            if offset < region.byteCount, UInt64(byteCount) <= region.byteCount &- offset {
                return region.base + Int(offset)
            }
        }
        return nil
    }

    /// Calls `body` with each contiguous piece of `byteCount` bytes at `guestAddress`, in order, until it returns
    /// `false`. A range that crosses adjacent regions has several pieces; a range of zero bytes has none, wherever it
    /// is. Returns `false` when a byte of the range is outside the memory (pieces before it have been visited) or
    /// `body` stopped.
    @inlinable
    @discardableResult
    public func forEachSlice(_ guestAddress: UInt64, byteCount: Int, _ body: (MemorySegment) -> Bool) -> Bool {
        guard byteCount >= 0 else { return false }
        var address = guestAddress
        var remaining = byteCount
        while remaining > 0 {
            guard let slice = self.slice(at: address, upTo: remaining), body(slice) else { return false }
            remaining -= slice.count
            // A region's end does not overflow, and neither does an address inside or at it.
            address &+= UInt64(slice.count)
        }
        return true
    }

    /// The piece of memory at `guestAddress` that is contiguous, at most `byteCount` bytes; `nil` when the address is
    /// outside.
    public func slice(at guestAddress: UInt64, upTo byteCount: Int) -> MemorySegment? {
        guard byteCount > 0, let index = regionIndex(of: guestAddress) else { return nil }
        let entry = entries[index]
        let offset = guestAddress &- entry.guestAddress
        let count = min(UInt64(byteCount), entry.byteCount &- offset)
        return MemorySegment(base: entry.base + Int(offset), count: Int(count))
    }

    /// Index of the region that holds `guestAddress`.
    @inline(__always)
    private func regionIndex(of guestAddress: UInt64) -> Int? {
        if entryCount <= Self.scannedRegionCount {
            for index in 0..<entryCount
            where guestAddress &- entries[index].guestAddress < entries[index].byteCount {
                return index
            }
            return nil
        }
        var low = 0
        var high = entryCount
        while low < high {
            let middle = (low + high) / 2
            if entries[middle].guestAddress <= guestAddress {
                low = middle + 1
            } else {
                high = middle
            }
        }
        guard low > 0, guestAddress &- entries[low - 1].guestAddress < entries[low - 1].byteCount else { return nil }
        return low - 1
    }
}
