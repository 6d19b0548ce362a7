// SPDX-License-Identifier: Apache-2.0
//
// Readiness of one descriptor or of a few, poll(2). Unlike a ``Poller`` it takes regular files and devices that epoll
// refuses, which are always ready, and it keeps nothing between two waits.

import Glibc

/// A descriptor to wait for, and what came of it.
public struct PollRequest: Equatable, Sendable {
    /// The descriptor.
    public let descriptor: Int32
    /// What to wait for.
    public let events: PollEvents
    /// What it was ready for after the last wait.
    public fileprivate(set) var ready: PollEvents = []

    /// A wish to wait for `events` of `descriptor`.
    public init(_ descriptor: Int32, _ events: PollEvents) {
        self.descriptor = descriptor
        self.events = events
    }
}

extension DescriptorIO {
    /// poll(2) for one descriptor. Returns what is ready, which is empty if the time passed first. Throws EBADF never
    /// (that is ``PollEvents/error``).
    public static func waitUntilReady(
        _ descriptor: Int32, for events: PollEvents, timeoutNanoseconds: UInt64?
    ) throws(SystemCallError) -> PollEvents {
        if let kernel = Simulation.kernel(of: descriptor) {
            return kernel.readiness(descriptor).intersection(events.union([.error, .hangUp]))
        }
        var entry = entry(descriptor, events)
        let result = pollUntilReady(&entry, 1, timeoutNanoseconds)
        if result < 0 { throw SystemCallError(call: "poll", errno: Errno(negated: result)) }
        return ready(entry)
    }

    /// poll(2) for several descriptors, or for none: then the time passes. Sets ``PollRequest/ready`` of every request
    /// and returns how many are ready, 0 if the time passed first. Throws EINVAL for more than the limit of open files.
    @discardableResult
    public static func waitUntilReady(
        _ requests: inout [PollRequest], timeoutNanoseconds: UInt64?
    ) throws(SystemCallError) -> Int {
        var entries = requests.map { entry($0.descriptor, $0.events) }
        let result = entries.withUnsafeMutableBufferPointer {
            pollUntilReady($0.baseAddress, $0.count, timeoutNanoseconds)
        }
        if result < 0 { throw SystemCallError(call: "poll", errno: Errno(negated: result)) }
        for index in requests.indices { requests[index].ready = ready(entries[index]) }
        return result
    }

    private static func entry(_ descriptor: Int32, _ events: PollEvents) -> pollfd {
        pollfd(fd: descriptor, events: Int16(truncatingIfNeeded: events.rawValue), revents: 0)
    }

    private static func ready(_ entry: pollfd) -> PollEvents {
        // POLLNVAL has no counterpart in epoll.
        if entry.revents & Int16(POLLNVAL) != 0 { return .error }
        return PollEvents(rawValue: UInt32(UInt16(bitPattern: entry.revents)))
    }

    /// The number of descriptors that are ready, or the negated error number.
    private static func pollUntilReady(
        _ entries: UnsafeMutablePointer<pollfd>?, _ count: Int, _ timeoutNanoseconds: UInt64?
    ) -> Int {
        var deadline = Deadline(after: timeoutNanoseconds)
        while true {
            let milliseconds = deadline.remainingMilliseconds
            let result = systemCallOnce { Int(poll(entries, nfds_t(count), milliseconds)) }
            if result > 0 || (result < 0 && result != -Int(EINTR)) { return result }
            deadline.refresh()
            if deadline.hasPassed { return 0 }
        }
    }
}
