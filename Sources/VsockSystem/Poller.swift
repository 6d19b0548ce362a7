// SPDX-License-Identifier: Apache-2.0
//
// Readiness of many descriptors, epoll(7). A poller knows descriptors by number only: the owner removes a descriptor
// before it closes it, and gives tokens that tell a reused number from the old one, because events of a descriptor that
// was closed in the same batch may still be in the buffer.

import CVsockLinux
import Glibc
import Synchronization

/// Kinds of readiness, with the bits of epoll(7) (and, except for the mode, of poll(2)).
@frozen
public struct PollEvents: OptionSet, Hashable, Sendable {
    /// EPOLL* bits.
    public var rawValue: UInt32

    /// Wraps EPOLL* bits.
    @inlinable
    public init(rawValue: UInt32) {
        self.rawValue = rawValue
    }

    /// EPOLLIN: data, a connection to accept, or end of file.
    @inlinable public static var readable: PollEvents { PollEvents(rawValue: 0x001) }
    /// EPOLLOUT: room to write, or a connect that has ended.
    @inlinable public static var writable: PollEvents { PollEvents(rawValue: 0x004) }
    /// EPOLLERR: always reported, never asked for.
    @inlinable public static var error: PollEvents { PollEvents(rawValue: 0x008) }
    /// EPOLLHUP: both directions are shut. Always reported, never asked for.
    @inlinable public static var hangUp: PollEvents { PollEvents(rawValue: 0x010) }
    /// EPOLLRDHUP: the peer has shut its sending direction.
    @inlinable public static var readHangUp: PollEvents { PollEvents(rawValue: 0x2000) }
    /// EPOLLET: report changes only; the owner reads or writes until EAGAIN. A mode, never reported.
    @inlinable public static var edgeTriggered: PollEvents { PollEvents(rawValue: 0x8000_0000) }
}

/// One descriptor that is ready.
@frozen
public struct PollEvent: Equatable, Sendable {
    /// What the owner registered the descriptor with.
    public var token: UInt64
    /// What it is ready for.
    public var events: PollEvents

    /// For tests and for loops that inject events of their own.
    @inlinable
    public init(token: UInt64, events: PollEvents) {
        self.token = token
        self.events = events
    }
}

/// Room for the events of one wait, allocated once.
public struct PollEventBuffer: ~Copyable {
    fileprivate let storage: UnsafeMutablePointer<epoll_event>

    /// The most events that one wait returns.
    public let capacity: Int

    /// Events of the last wait.
    public fileprivate(set) var count = 0

    /// Allocates room for `capacity` events, at least 1.
    public init(capacity: Int) {
        precondition(capacity > 0 && capacity <= Int(Int32.max) / MemoryLayout<epoll_event>.stride)
        self.capacity = capacity
        storage = .allocate(capacity: capacity)
        storage.initialize(repeating: epoll_event(), count: capacity)
    }

    deinit {
        storage.deallocate()
    }

    /// The event at `index`, less than `count`.
    public subscript(index: Int) -> PollEvent {
        precondition(index >= 0 && index < count)
        let event = storage + index
        return PollEvent(token: cvsock_epoll_token(event), events: PollEvents(rawValue: cvsock_epoll_events(event)))
    }
}

/// An epoll instance. Calls from several threads are safe, as they are in the kernel.
public struct Poller: ~Copyable, Sendable {
    private let descriptor: OwnedFileDescriptor

    /// Older kernels and some sandboxes refuse a timeout in nanoseconds; found out once.
    private static let hasNanoseconds = Atomic<Bool>(true)

    /// Throws EMFILE, ENFILE, ENOMEM.
    public init() throws(SystemCallError) {
        if let kernel = Simulation.kernel {
            descriptor = try kernel.makePoller().descriptor("epoll_create1")
        } else {
            descriptor = OwnedFileDescriptor(owning: try checked("epoll_create1") { cvsock_epoll_create() })
        }
    }

    /// The time by the clock that waits are measured with: ``MonotonicClock``.
    public borrowing func now() -> UInt64 { Simulation.kernel(of: descriptor.rawValue)?.now ?? MonotonicClock.now() }

    /// The epoll descriptor itself: readable while an event is waiting, so that pollers nest.
    public var rawDescriptor: Int32 { descriptor.rawValue }

    /// Starts to watch a descriptor. Throws EEXIST, EPERM for a regular file, ENOSPC.
    public borrowing func add(_ target: Int32, _ events: PollEvents, token: UInt64) throws(SystemCallError) {
        let poller = descriptor.rawValue
        if let kernel = Simulation.kernel(of: poller) {
            return try checkSimulated("epoll_ctl", kernel.watch(poller, target, events, token: token))
        }
        try checked("epoll_ctl") { cvsock_epoll_add(poller, target, events.rawValue, token) }
    }

    /// Changes what is watched for. An edge-triggered descriptor that is ready is reported again. Throws ENOENT.
    public borrowing func modify(_ target: Int32, _ events: PollEvents, token: UInt64) throws(SystemCallError) {
        let poller = descriptor.rawValue
        if let kernel = Simulation.kernel(of: poller) {
            return try checkSimulated("epoll_ctl", kernel.watch(poller, target, events, token: token))
        }
        try checked("epoll_ctl") { cvsock_epoll_modify(poller, target, events.rawValue, token) }
    }

    /// Stops watching. Throws ENOENT if it was not watched.
    public borrowing func remove(_ target: Int32) throws(SystemCallError) {
        let poller = descriptor.rawValue
        if let kernel = Simulation.kernel(of: poller) {
            return try checkSimulated("epoll_ctl", kernel.unwatch(poller, target))
        }
        try checked("epoll_ctl") { cvsock_epoll_remove(poller, target) }
    }

    /// Waits until something is ready or the time has passed; nil waits for ever, 0 does not wait. Returns the number
    /// of events, which are in `buffer` until the next wait.
    @discardableResult
    public borrowing func wait(
        into buffer: inout PollEventBuffer, timeoutNanoseconds: UInt64?
    ) throws(SystemCallError) -> Int {
        let poller = descriptor.rawValue
        let events = buffer.storage
        let capacity = Int32(clamping: buffer.capacity)
        var deadline = Deadline(after: timeoutNanoseconds)
        buffer.count = 0
        if let kernel = Simulation.kernel(of: poller) {
            for event in kernel.events(poller, limit: buffer.capacity) {
                cvsock_epoll_set(events + buffer.count, event.events.rawValue, event.token)
                buffer.count += 1
            }
            return buffer.count
        }
        while true {
            let result = systemCallOnce { Int(Self.waitOnce(poller, events, capacity, deadline)) }
            if result >= 0 {
                buffer.count = result
                return result
            }
            if result != -Int(EINTR) { throw SystemCallError(call: "epoll_wait", errno: Errno(negated: result)) }
            deadline.refresh()
        }
    }

    private static func waitOnce(
        _ poller: Int32, _ events: UnsafeMutablePointer<epoll_event>, _ capacity: Int32, _ deadline: Deadline
    ) -> Int32 {
        if let remaining = deadline.remaining, remaining > 0, hasNanoseconds.load(ordering: .relaxed) {
            var timeout = timespec()
            timeout.tv_sec = .init(remaining / 1_000_000_000)
            timeout.tv_nsec = .init(remaining % 1_000_000_000)
            let result = cvsock_epoll_pwait2(poller, events, capacity, &timeout)
            guard result < 0, errno == ENOSYS || errno == EPERM else { return result }
            hasNanoseconds.store(false, ordering: .relaxed)
        }
        return cvsock_epoll_wait(poller, events, capacity, deadline.remainingMilliseconds)
    }
}
