// SPDX-License-Identifier: Apache-2.0
//
// Guest memory that a hostile driver writes to. The regions are heap blocks of exactly their size, so that
// AddressSanitizer sees the first byte outside.

@testable import VirtioQueue

/// Three regions: the rings with some room, one that follows them without a gap, and a far one of an odd size.
final class FuzzMemory: @unchecked Sendable {
    // Unchecked because of the pointers: one thread uses it.

    static let start: UInt64 = 0x4000_0000
    static let farStart: UInt64 = 0xffff_ffff_0000_0000
    static let byteCounts = [12_288, 4096, 777]

    let blocks: [UnsafeMutableRawBufferPointer]
    let memory: GuestMemory

    init() throws(FuzzFinding) {
        let starts = [Self.start, Self.start + UInt64(Self.byteCounts[0]), Self.farStart]
        let blocks = Self.byteCounts.map { byteCount in
            UnsafeMutableRawBufferPointer.allocate(byteCount: byteCount, alignment: 16)
        }
        self.blocks = blocks
        var regions: [GuestMemory.Region] = []
        for (start, block) in zip(starts, blocks) {
            guard let base = block.baseAddress else { continue }
            regions.append(
                GuestMemory.Region(guestAddress: start, byteCount: UInt64(block.count), userAddress: start, base: base))
        }
        do throws(GuestMemoryError) {
            memory = try GuestMemory(regions: regions)
        } catch {
            throw FuzzFinding("the regions are legal: \(error)")
        }
    }

    deinit { for block in blocks { block.deallocate() } }

    /// Zeroes all of it.
    func clear() {
        for block in blocks { block.initializeMemory(as: UInt8.self, repeating: 0) }
    }

    /// Whether a segment lies in one of the blocks.
    func contains(_ segment: MemorySegment) -> Bool {
        let bytes = UnsafeRawBufferPointer(start: segment.base, count: segment.count)
        return blocks.contains { block in
            guard let start = block.baseAddress, let first = bytes.baseAddress else { return false }
            return first >= UnsafeRawPointer(start) && first + bytes.count <= UnsafeRawPointer(start + block.count)
        }
    }

    /// An address that is often one of the memory's.
    static func address(_ input: inout FuzzInput) -> UInt64 {
        switch input.below(6) {
        case 0, 1: start + UInt64(input.integer(UInt16.self) % 12_288)
        case 2: start + 12_288 &- 64 &+ UInt64(input.byte())
        case 3: start + 16_384 &- UInt64(input.byte())
        case 4: farStart + UInt64(input.integer(UInt16.self) % 800)
        default: input.number()
        }
    }

    /// A descriptor that gets some way.
    static func descriptor(_ input: inout FuzzInput, size: Int) -> Descriptor {
        let flags = input.byte()
        let next = input.below(16) == 0 ? input.integer() : UInt16(input.below(size))
        let byteCount: UInt32 =
            switch input.below(4) {
            case 0: UInt32(input.byte())
            case 1: UInt32(16 * input.below(70))
            case 2: UInt32(input.integer(UInt16.self))
            default: UInt32(truncatingIfNeeded: input.number())
            }
        return Descriptor(
            address: address(&input), byteCount: byteCount,
            flags: flags < 240 ? UInt16(flags & 3) : flags < 250 ? 4 : UInt16(flags & 7), next: next)
    }

    func write(_ descriptor: Descriptor, at guestAddress: UInt64) {
        guard let pointer = memory.resolve(guestAddress, byteCount: Descriptor.byteCount) else { return }
        pointer.storeBytes(of: descriptor.address, as: UInt64.self)
        (pointer + 8).storeBytes(of: descriptor.byteCount, as: UInt32.self)
        (pointer + 12).storeBytes(of: descriptor.flags, as: UInt16.self)
        (pointer + 14).storeBytes(of: descriptor.next, as: UInt16.self)
    }

    func poke(_ input: inout FuzzInput) {
        memory.resolve(Self.address(&input), byteCount: 1)?.storeBytes(of: input.byte(), as: UInt8.self)
    }

    static func features(_ input: inout FuzzInput) -> VirtqueueFeatures {
        let bits = input.byte()
        return VirtqueueFeatures(eventIndex: bits & 1 != 0, indirectDescriptors: bits & 2 == 0)
    }

    /// Where the parts of a queue of `size` entries are, each behind a gap of `distance` bytes from the last.
    func layout(size: Int, at address: UInt64 = start, distance: UInt64 = 2048) throws(FuzzFinding) -> VirtqueueLayout {
        do throws(VirtqueueError) {
            return try VirtqueueLayout(
                size: size, descriptorTable: address, availableRing: address + distance,
                usedRing: address + 2 * distance, space: .guest, memory: memory)
        } catch {
            throw FuzzFinding("the layout is legal: \(error)")
        }
    }
}
