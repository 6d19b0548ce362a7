// SPDX-License-Identifier: Apache-2.0
//
// Where a simulation takes the kernel's place. Everything above this module runs as it does in production; its
// descriptors, its clock and its listeners are a model's, which follows from a seed and can fail when it is told to.
//
// A descriptor of a model is recognised by its number, which no descriptor of Linux can have: one comparison per system
// call is all that this costs. What makes a descriptor asks for the model of the running task.
//
// Memory to share is Linux's own in a simulation, too: an access to what is no longer mapped has to end the process.
// Its descriptors travel over the model's sockets as they do over Linux's.

import Glibc

/// What a model of the kernel must do: the calls that devices make on the sockets of host programs and of monitors, on
/// readiness and on the clock. Results are as of the system calls, failures are error numbers.
package protocol SimulatedKernel: AnyObject, Sendable {
    /// CLOCK_MONOTONIC.
    var now: UInt64 { get }
    /// close(2)
    func close(_ descriptor: Int32)

    /// socket(2) and connect(2) to a path, non-blocking.
    func connect(to path: String, type: UnixSocketType) -> Result<Int32, Errno>
    /// socketpair(2), non-blocking.
    func makePair(_ type: UnixSocketType) -> Result<(Int32, Int32), Errno>
    /// socket(2), bind(2) and listen(2).
    func listen(at path: String, type: UnixSocketType, backlog: Int) -> Result<Int32, Errno>
    /// accept4(2)
    func accept(_ listener: Int32) -> Result<Int32, Errno>
    /// recvmsg(2)
    func receive(
        _ descriptor: Int32, into segments: [UnsafeMutableRawBufferPointer], flags: MessageFlags
    ) -> MessageResult
    /// recvmsg(2) with room for descriptors.
    func receive(
        _ descriptor: Int32, into buffer: UnsafeMutableRawBufferPointer, descriptors: inout DescriptorList,
        flags: MessageFlags
    ) -> MessageResult
    /// sendmsg(2)
    func send(_ descriptor: Int32, from segments: [UnsafeRawBufferPointer]) -> IOResult
    /// sendmsg(2) with descriptors, of the model or of Linux.
    func send(_ descriptor: Int32, from buffer: UnsafeRawBufferPointer, descriptors: [Int32]) -> IOResult
    /// read(2)
    func read(_ descriptor: Int32, into buffer: UnsafeMutableRawBufferPointer) -> IOResult
    /// write(2)
    func write(_ descriptor: Int32, from buffer: UnsafeRawBufferPointer) -> IOResult
    /// shutdown(2)
    func shutdown(_ descriptor: Int32, _ direction: SocketOptions.Direction) -> Errno?
    /// SO_TYPE of a socket, which is of family AF_UNIX; nil for what is no socket.
    func socketType(_ descriptor: Int32) -> UnixSocketType?
    /// FIONREAD
    func unreadByteCount(_ descriptor: Int32) -> Int
    /// SO_SNDBUF as it is read.
    func sendBuffer(_ descriptor: Int32) -> Int
    /// SO_SNDBUF as it is set.
    func setSendBuffer(_ descriptor: Int32, byteCount: Int)
    /// poll(2) without waiting.
    func readiness(_ descriptor: Int32) -> PollEvents

    /// eventfd(2)
    func makeNotifier() -> Result<Int32, Errno>

    /// epoll_create1(2)
    func makePoller() -> Result<Int32, Errno>
    /// EPOLL_CTL_ADD, or EPOLL_CTL_MOD of a descriptor that is watched.
    func watch(_ poller: Int32, _ target: Int32, _ events: PollEvents, token: UInt64) -> Errno?
    /// EPOLL_CTL_DEL
    func unwatch(_ poller: Int32, _ target: Int32) -> Errno?
    /// epoll_wait(2) without waiting: a simulation moves the clock itself.
    func events(_ poller: Int32, limit: Int) -> [PollEvent]
}

/// The simulated kernel of the running task.
package enum Simulation {
    /// The first descriptor of a model: Linux has none above 0x3ffffff8, the limit of fs.nr_open.
    package static let firstDescriptor: Int32 = 1 << 30

    /// The kernel for what is made from now on; nil outside of a simulation.
    @TaskLocal package static var kernel: (any SimulatedKernel)?

    /// The kernel that a descriptor is of; nil for the real one.
    @inline(__always)
    static func kernel(of descriptor: Int32) -> (any SimulatedKernel)? {
        descriptor < firstDescriptor ? nil : kernel
    }
}

extension Result where Success == Int32, Failure == Errno {
    /// The descriptor that a simulated call has made.
    func descriptor(_ call: StaticString, path: String? = nil) throws(SystemCallError) -> OwnedFileDescriptor {
        switch self {
        case .success(let rawValue): return OwnedFileDescriptor(owning: rawValue)
        case .failure(let errno): throw SystemCallError(call: call, errno: errno, path: path)
        }
    }
}

extension SimulatedKernel {
    func receive(
        _ descriptor: Int32, into segments: UnsafePointer<IOVector>?, count: Int, flags: MessageFlags
    ) -> MessageResult {
        let areas = UnsafeBufferPointer(start: segments, count: count).map {
            UnsafeMutableRawBufferPointer(start: $0.iov_base, count: $0.iov_len)
        }
        return receive(descriptor, into: areas, flags: flags)
    }

    func receive(
        _ descriptor: Int32, into buffer: UnsafeMutableRawBufferPointer, flags: MessageFlags
    ) -> IOResult {
        switch receive(descriptor, into: [buffer], flags: flags) {
        case .message(let count, _): .count(count)
        case .wouldBlock: .wouldBlock
        case .failed(let errno): .failed(errno)
        }
    }

    /// As ``EventNotifier/drain(_:)``.
    func drain(_ descriptor: Int32, _ buffer: UnsafeMutableRawBufferPointer) -> IOResult {
        var total = 0
        while true {
            let result = read(descriptor, into: buffer)
            guard case .count(let count) = result else { return total > 0 ? .count(total) : result }
            total += count
            if count < buffer.count { return .count(total) }
        }
    }

    func send(_ descriptor: Int32, from segments: UnsafePointer<IOVector>?, count: Int) -> IOResult {
        send(
            descriptor,
            from: UnsafeBufferPointer(start: segments, count: count).map {
                UnsafeRawBufferPointer(start: $0.iov_base, count: $0.iov_len)
            })
    }
}

/// Throws what a simulated call has failed with.
func checkSimulated(_ call: StaticString, _ errno: Errno?) throws(SystemCallError) {
    if let errno { throw SystemCallError(call: call, errno: errno) }
}
