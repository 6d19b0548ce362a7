// SPDX-License-Identifier: Apache-2.0
//
// A peer that shortens the file behind a mapping makes every access beyond the new end a SIGBUS; so do a huge page that
// is not to be had, a file system that is full, and a page that the hardware has lost (mmap(2), "ERRORS"; sigaction(2),
// "BUS_ADRERR"). None of that may end a process that serves other peers, too. So the handler puts a page of zeros in the
// place of the one that is gone, and the access goes on; whoever owns the mapping is told, and gives it up. Who goes on
// regardless loses the whole mapping to zeros.
//
//      access --SIGBUS--> in a mapping? --yes--> a page of zeros, loss reported --> access again
//                              \------no---> as before this was installed
//
// The handler may take a lock and run Swift, which a handler otherwise may not: the kernel raises this signal at the
// access itself, and no code that holds the lock, or a lock of the allocator, reads a peer's memory. A SIGBUS that
// another process sends can come at any place, and gets the action that was there before. So can the announcement that a
// page is lost (BUS_MCEERR_AO), which is ignored: the access will tell.

import CVsockLinux
import Glibc
import Synchronization

/// Mappings that lose what is behind them.
public enum MemoryFaults {
    /// From here on, a ``MemoryMapping`` that loses a page of what is behind it reads as zeros there, and reports it to its
    /// ``MemoryLoss``, instead of ending the process with SIGBUS. For the whole process; again it does nothing. What else
    /// raises SIGBUS goes where it went before. Throws what sigaction(2) does.
    public static func survive() throws(SystemCallError) {
        try isInstalled.withLock { (isInstalled) throws(SystemCallError) in
            guard !isInstalled else { return }
            try checked("sigaction") { cvsock_catch_bus_error(handleBusError, &faults.previousAction) }
            isInstalled = true
        }
    }
}

/// Whether some of a peer's memory has gone from behind its mappings.
public final class MemoryLoss: Sendable {
    private let flag = Atomic(false)

    /// No loss so far.
    public init() {}

    /// Whether there was one. Then what is or was read from the memory may be zeros that nobody wrote, and what this process
    /// has written there, nobody else may see. To be asked after a read, and before somebody else, the kernel included, is
    /// given the memory to read.
    public var hasHappened: Bool { flag.load(ordering: .sequentiallyConsistent) }

    /// The mappings have been given up.
    public func reset() { flag.store(false, ordering: .relaxed) }

    fileprivate func report() { flag.store(true, ordering: .relaxed) }
}

private let isInstalled = Mutex(false)
/// What the handler of SIGBUS knows.
let faults = MappedMemory()

/// See the top of the file.
final class MappedMemory: @unchecked Sendable {
    // @unchecked: `previousAction` is written once, before the handler that reads it is there.

    /// Pages of a mapping that are replaced one by one: each takes up to two of the mappings that the kernel lets a process
    /// have (vm.max_map_count).
    private static let pageLimit = 16

    private struct Mapped {
        let byteCount: Int
        let pageByteCount: Int
        let loss: MemoryLoss?
        var lostPageCount = 0
    }

    var previousAction = sigaction()
    private let mapped = Mutex<[UInt: Mapped]>([:])

    /// `base` and `byteCount` are multiples of the page (or huge page).
    func add(_ base: UnsafeMutableRawPointer, _ byteCount: Int, pageByteCount: Int, _ loss: MemoryLoss?) {
        let entry = Mapped(byteCount: byteCount, pageByteCount: pageByteCount, loss: loss)
        mapped.withLock { $0[UInt(bitPattern: base)] = entry }
    }

    /// Before the memory is unmapped: afterwards others may have it.
    func remove(_ base: UnsafeMutableRawPointer) {
        mapped.withLock { _ = $0.removeValue(forKey: UInt(bitPattern: base)) }
    }

    /// Puts zeros in the place of the page at `address`; false if that is in no mapping, or cannot be done. Another thread
    /// may have been faster: its page is lost, too, then.
    fileprivate func replacePage(at address: UInt) -> Bool {
        mapped.withLock { mapped in
            guard let (base, found) = mapped.first(where: { address &- $0.key < UInt($0.value.byteCount) }) else {
                return false
            }
            let page = base + (address - base) & ~UInt(found.pageByteCount - 1)
            let isOneOfFew = found.lostPageCount < Self.pageLimit && Self.putZeros(at: page, found.pageByteCount)
            // One mapping for all of it, with what is still there.
            guard isOneOfFew || Self.putZeros(at: base, found.byteCount) else { return false }
            mapped[base]?.lostPageCount += 1
            found.loss?.report()
            return true
        }
    }

    private static func putZeros(at address: UInt, _ byteCount: Int) -> Bool {
        let target = UnsafeMutableRawPointer(bitPattern: address)
        let flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE
        guard mmap(target, byteCount, PROT_READ | PROT_WRITE, flags, -1, 0) != MAP_FAILED else { return false }
        // Nobody needs much of it, and huge pages would be zeroed as a whole. Best effort.
        if let target { _ = cvsock_avoid_huge_pages(target, byteCount) }
        return true
    }
}

private func handleBusError(
    _ signal: Int32, _ information: UnsafeMutablePointer<siginfo_t>?, _ context: UnsafeMutableRawPointer?
) {
    let savedErrno = errno
    defer { errno = savedErrno }
    guard let information, !cvsock_announces_memory_error(information) else { return }
    let address = cvsock_fault_address(information)
    if let address, faults.replacePage(at: UInt(bitPattern: address)) { return }
    // An access is made again after this, and fails again.
    var previous = faults.previousAction
    if sigaction(signal, &previous, nil) != 0 { _exit(128 + signal) }
    if address == nil { raise(signal) }
}
