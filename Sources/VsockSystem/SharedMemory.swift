// SPDX-License-Identifier: Apache-2.0
//
// Memory that two processes see: memfd_create(2) for our own, mmap(2) for a peer's (vhost-user.rst, "Memory region
// description").
//
// A peer that shortens its file later makes every access beyond the new end a SIGBUS. Our own memory is sealed against
// it; a peer's is checked when it is mapped, and may be lost later: MemoryFaults.

import CVsockLinux
import Glibc

/// A part of a file mapped shared. Unmapped with the last reference: hold the object as long as the pointers.
public final class MemoryMapping: @unchecked Sendable {
    // @unchecked: immutable addresses. What is behind them is shared memory, whose users bring their own ordering.

    /// The address of the byte at the offset that was asked for.
    public let base: UnsafeMutableRawPointer
    /// Bytes that were asked for.
    public let byteCount: Int

    private let mappedBase: UnsafeMutableRawPointer
    private let mappedByteCount: Int

    /// Maps `byteCount` bytes from `offset` of a regular file, memfd or huge-page file; the descriptor may be closed
    /// afterwards. The offset need not be aligned: the mapping begins at the page (or huge page) that holds it. `loss` is
    /// told when something behind it has gone: ``MemoryFaults``.
    ///
    /// Throws EINVAL if the range is empty, overflows, or is not inside the file at this moment; ENODEV if the
    /// descriptor is no regular file; EACCES if it is not open for reading and writing; ENOMEM.
    public init(
        descriptor: Int32, offset: UInt64 = 0, byteCount: Int, isWritable: Bool = true,
        loss: MemoryLoss? = nil
    ) throws(SystemCallError) {
        try Self.checkRange(descriptor, offset, byteCount)
        let page = try Self.pageByteCount(of: descriptor)
        let lead = Int(truncatingIfNeeded: offset & (page - 1))
        let (length, overflow) = byteCount.addingReportingOverflow(lead + Int(page - 1))
        guard !overflow else { throw SystemCallError(call: "mmap", errno: .invalidArgument) }
        let rounded = length & ~Int(page - 1)
        let protection = isWritable ? PROT_READ | PROT_WRITE : PROT_READ
        let start = off_t(truncatingIfNeeded: offset) - off_t(lead)
        // MAP_FAILED is -1, and no address of user space is negative.
        let result = systemCallOnce {
            Int(bitPattern: mmap(nil, rounded, protection, MAP_SHARED | MAP_NORESERVE, descriptor, start))
        }
        guard result > 0, let address = UnsafeMutableRawPointer(bitPattern: result) else {
            throw SystemCallError(call: "mmap", errno: Errno(negated: result))
        }
        mappedBase = address
        mappedByteCount = rounded
        base = address + lead
        self.byteCount = byteCount
        faults.add(address, rounded, pageByteCount: Int(page), loss)
        // The memory of a guest is large and not ours to write into a core file. Best effort.
        _ = cvsock_exclude_from_core_dump(address, rounded)
    }

    deinit {
        faults.remove(mappedBase)
        munmap(mappedBase, mappedByteCount)
    }

    private static func checkRange(_ descriptor: Int32, _ offset: UInt64, _ byteCount: Int) throws(SystemCallError) {
        var status = stat()
        try checked("fstat") { fstat(descriptor, &status) }
        guard status.st_mode & S_IFMT == S_IFREG else {
            throw SystemCallError(call: "mmap", errno: .noSuchDevice, detail: "memory must be a regular file or memfd")
        }
        let (end, overflow) = offset.addingReportingOverflow(UInt64(clamping: byteCount))
        guard byteCount > 0, !overflow, end <= UInt64(clamping: status.st_size) else {
            throw SystemCallError(
                call: "mmap", errno: .invalidArgument,
                detail: "\(byteCount) bytes at \(offset) are not inside the file of \(status.st_size) bytes")
        }
    }

    /// Offset and length of a mapping of a huge-page file are multiples of the huge page.
    private static func pageByteCount(of descriptor: Int32) throws(SystemCallError) -> UInt64 {
        var status = statfs()
        try checked("fstatfs") { fstatfs(descriptor, &status) }
        let page = UInt64(clamping: sysconf(Int32(_SC_PAGESIZE)))
        guard cvsock_is_huge_page_file(&status) != 0 else { return page }
        let hugePage = UInt64(clamping: status.f_bsize)
        return hugePage.nonzeroBitCount == 1 && hugePage <= 1 << 40 ? max(page, hugePage) : page
    }
}

/// Memory of our own to share: a memfd whose size is sealed, mapped.
public final class SharedMemory: Sendable {
    private let descriptor: OwnedFileDescriptor

    /// Where it is mapped here; zero at the start.
    public let mapping: MemoryMapping

    /// To pass to the peer. Owned by this object.
    public var rawDescriptor: Int32 { descriptor.rawValue }

    /// Makes `byteCount` zero bytes. The name shows in /proc only. Throws EINVAL for a size below 1, ENOMEM, EMFILE.
    public init(name: String, byteCount: Int) throws(SystemCallError) {
        let file = OwnedFileDescriptor(owning: try checked("memfd_create") { cvsock_memfd_create(name) })
        let rawValue = file.rawValue
        try checked("ftruncate") { ftruncate(rawValue, off_t(byteCount)) }
        try checked("fcntl") { cvsock_seal_size(rawValue) }
        mapping = try MemoryMapping(descriptor: rawValue, byteCount: byteCount)
        descriptor = file
    }
}
