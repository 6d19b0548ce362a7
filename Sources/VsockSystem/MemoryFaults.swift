// SPDX-License-Identifier: Apache-2.0
//
// A peer that shortens the file behind a mapping makes every access beyond the new end a SIGBUS; so do a huge page that
// is not to be had, a file system that is full, and a page that the hardware has lost (mmap(2), "ERRORS"; sigaction(2),
// "BUS_ADRERR"). None of that may end a process that serves other peers, too. So the handler puts zeros in the place of
// the whole mapping, and the access goes on; whoever owns the mapping finds it lost, and gives it up.
//
//      access --SIGBUS--> in a mapping? --yes--> zeros in its place, lost --> access again
//                              \------no---> as before this was installed
//
// The handler may take a lock and run Swift, which a handler otherwise may not: the kernel raises this signal at the
// access itself, and no code that holds the lock, or a lock of the allocator, reads a peer's memory. A SIGBUS that
// another process sends can come at any place, and gets the action that was there before.

import CVsockLinux
import Glibc
import Synchronization

/// Mappings that lose what is behind them.
public enum MemoryFaults {
    /// Mappings lost since the process began. Cheap: to be looked at often, and the mappings one by one when it has
    /// changed.
    public static var count: Int { faults.count.load(ordering: .acquiring) }

    /// From here on, a ``MemoryMapping`` that loses what is behind it reads as zeros instead of ending the process with
    /// SIGBUS. For the whole process, and to be called once; what else raises SIGBUS goes where it went before. Throws
    /// what sigaction(2) does.
    public static func survive() throws(SystemCallError) {
        try checked("sigaction") { cvsock_catch_bus_error(handleBusError, &faults.previousAction) }
    }
}

/// What the handler of SIGBUS knows.
let faults = MappingFaults()

/// See the top of the file.
final class MappingFaults: @unchecked Sendable {
    // @unchecked: `previousAction` is written once, before the handler that reads it is there.

    private struct Mapped {
        let byteCount: Int
        var isLost = false
    }

    let count = Atomic(0)
    var previousAction = sigaction()
    private let mapped = Mutex<[UInt: Mapped]>([:])

    func add(_ base: UnsafeMutableRawPointer, _ byteCount: Int) {
        mapped.withLock { $0[UInt(bitPattern: base)] = Mapped(byteCount: byteCount) }
    }

    /// Before the memory is unmapped: afterwards others may have it.
    func remove(_ base: UnsafeMutableRawPointer) {
        mapped.withLock { _ = $0.removeValue(forKey: UInt(bitPattern: base)) }
    }

    func isLost(_ base: UnsafeMutableRawPointer) -> Bool {
        mapped.withLock { $0[UInt(bitPattern: base)]?.isLost == true }
    }

    /// Puts zeros in the place of the mapping that holds `address`; whether there is one.
    func replace(at address: UInt) -> Bool {
        mapped.withLock { mapped in
            guard let (base, found) = mapped.first(where: { address &- $0.key < UInt($0.value.byteCount) }),
                !found.isLost
            else { return false }
            // All of it: a part of a huge page cannot be replaced.
            let result = mmap(
                UnsafeMutableRawPointer(bitPattern: base), found.byteCount, PROT_READ | PROT_WRITE,
                MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE, -1, 0)
            guard result != MAP_FAILED else { return false }
            mapped[base]?.isLost = true
            count.add(1, ordering: .releasing)
            return true
        }
    }
}

private func handleBusError(
    _ signal: Int32, _ information: UnsafeMutablePointer<siginfo_t>?, _ context: UnsafeMutableRawPointer?
) {
    let savedErrno = errno
    defer { errno = savedErrno }
    let address = information.flatMap { cvsock_fault_address($0) }
    if let address, faults.replace(at: UInt(bitPattern: address)) { return }
    // An access is made again after this, and fails again.
    var previous = faults.previousAction
    if sigaction(signal, &previous, nil) != 0 { _exit(128 + signal) }
    if address == nil { raise(signal) }
}
