// SPDX-License-Identifier: Apache-2.0
//
// Signals as readable descriptors, signalfd(2), so that an event loop ends a daemon in order.

import CVsockLinux
import Glibc

/// Receives signals that would otherwise end the process.
///
/// Make it on the main thread before any other thread starts: it blocks the signals in the calling thread, and threads
/// inherit that. They stay blocked afterwards, so that a signal that comes during the shutdown does not cut it short.
public struct SignalReceiver: ~Copyable, Sendable {
    private let descriptor: OwnedFileDescriptor

    /// Readable while a signal is waiting.
    public var rawDescriptor: Int32 { descriptor.rawValue }

    /// Blocks `signals` in this thread and those it starts, and receives them here. Throws EMFILE, EINVAL.
    public init(_ signals: [Int32] = [SIGINT, SIGTERM]) throws(SystemCallError) {
        var set = sigset_t()
        sigemptyset(&set)
        for signal in signals { try checked("sigaddset") { sigaddset(&set, signal) } }
        try checkedCode("pthread_sigmask") { pthread_sigmask(SIG_BLOCK, &set, nil) }
        descriptor = OwnedFileDescriptor(owning: try checked("signalfd") { cvsock_signalfd(&set) })
    }

    /// The number of the next signal that is waiting, nil if there is none. Does not block.
    public borrowing func next() -> Int32? {
        let size = CVSOCK_SIGNALFD_SIGINFO_SIZE
        return withUnsafeTemporaryAllocation(byteCount: size, alignment: 8) { buffer in
            guard DescriptorIO.read(descriptor.rawValue, into: buffer) == .count(size),
                let bytes = buffer.baseAddress
            else { return nil }
            return Int32(bitPattern: cvsock_signalfd_signal(bytes))
        }
    }

    /// Makes writes to closed pipes and sockets fail with EPIPE instead of ending the process. Once, at start.
    public static func ignoreBrokenPipe() {
        // Cannot fail: SIGPIPE is a valid number and may be ignored.
        _ = cvsock_ignore_signal(SIGPIPE)
    }
}
