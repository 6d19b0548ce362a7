// SPDX-License-Identifier: Apache-2.0
//
// Wake-ups between threads and between processes: eventfd(2), and the kick and call descriptors of vhost-user, which a
// front-end may also make pipes (vhost-user.rst, "Starting and stopping rings" names eventfds; User Mode Linux passes
// pipes). Eight bytes with the value 1 mean one event on either.

import CVsockLinux
import Glibc

/// An eventfd of our own: non-blocking, any number of signals are one wake-up. Safe to use from every thread.
public final class EventNotifier: Sendable {
    private let descriptor: OwnedFileDescriptor

    /// The eventfd: watch it for ``PollEvents/readable``, or pass it to a peer.
    public var rawDescriptor: Int32 { descriptor.rawValue }

    /// Throws EMFILE, ENFILE, ENOMEM.
    public init() throws(SystemCallError) {
        if let kernel = Simulation.kernel {
            descriptor = try kernel.makeNotifier().descriptor("eventfd")
        } else {
            descriptor = OwnedFileDescriptor(owning: try checked("eventfd") { cvsock_eventfd() })
        }
    }

    /// Makes the eventfd readable.
    public func signal() {
        Self.signal(descriptor.rawValue)
    }

    /// Takes all signals so far; true if there was one.
    @discardableResult
    public func drain() -> Bool {
        guard case .count = Self.drain(descriptor.rawValue) else { return false }
        return true
    }

    /// Signals an eventfd or a pipe. EAGAIN (counter or pipe full) is success: the peer has a wake-up pending.
    /// Otherwise the error is returned: EPIPE if the reader of a pipe is gone (with SIGPIPE, unless it is ignored).
    /// A descriptor from a peer should be made non-blocking first.
    @discardableResult
    public static func signal(_ rawDescriptor: Int32) -> Errno? {
        var one: UInt64 = 1
        if let kernel = Simulation.kernel(of: rawDescriptor) {
            let result = withUnsafeBytes(of: &one) { kernel.write(rawDescriptor, from: $0) }
            return if case .failed(let errno) = result { errno } else { nil }
        }
        let result = systemCall { write(rawDescriptor, &one, MemoryLayout<UInt64>.size) }
        return result >= 0 || result == -Int(EAGAIN) ? nil : Errno(negated: result)
    }

    /// Whether the descriptor, watched edge-triggered, must be read lest its events stop: a pipe fills up. An eventfd
    /// reports every write, and its count has no end that could be reached. Those have no file type; what has one is
    /// taken for a pipe.
    public static func needsDraining(_ rawDescriptor: Int32) -> Bool {
        if let kernel = Simulation.kernel(of: rawDescriptor) { return kernel.socketType(rawDescriptor) != nil }
        var status = stat()
        return fstat(rawDescriptor, &status) != 0 || status.st_mode & S_IFMT != 0
    }

    /// Takes what is pending on an eventfd or a pipe: `.count` of bytes, 0 if the writer of a pipe is gone. Reads once
    /// if there is less than a buffer's worth, so that a blocking eventfd which was reported readable does not block.
    @discardableResult
    public static func drain(_ rawDescriptor: Int32) -> IOResult {
        var buffer = InlineArray<64, UInt64>(repeating: 0)
        let capacity = MemoryLayout.size(ofValue: buffer)
        if let kernel = Simulation.kernel(of: rawDescriptor) {
            return withUnsafeMutableBytes(of: &buffer) { kernel.drain(rawDescriptor, $0) }
        }
        var total = 0
        while true {
            let result = systemCall { read(rawDescriptor, &buffer, capacity) }
            if result < 0 { return total > 0 ? .count(total) : IOResult(systemCall: result) }
            total += result
            if result < capacity { return .count(total) }
        }
    }
}
