// SPDX-License-Identifier: Apache-2.0
//
// Input and output on raw descriptors: one system call each (repeated only after EINTR), no allocation, and no signal
// on a closed socket. Lists of segments are arrays of `struct iovec`, which the memory segments of a virtqueue have the
// layout of. The kernel takes at most `maximumSegmentCount` of them in one call.

import CVsockLinux
import Glibc

/// System calls on descriptors that the caller owns.
public enum DescriptorIO {
    /// IOV_MAX of Linux: more segments in one call are EINVAL (EMSGSIZE for messages).
    public static var maximumSegmentCount: Int { 1024 }

    /// PIPE_BUF of Linux: a pipe that is writable takes so many bytes at once without blocking.
    public static var pipeAtomicByteCount: Int { 4096 }

    // MARK: Files, pipes and stream sockets

    /// read(2)
    public static func read(_ descriptor: Int32, into buffer: UnsafeMutableRawBufferPointer) -> IOResult {
        if let kernel = Simulation.kernel(of: descriptor) { return kernel.read(descriptor, into: buffer) }
        return IOResult(systemCall: systemCall { Glibc.read(descriptor, buffer.baseAddress, buffer.count) })
    }

    /// write(2). On a pipe or stream socket whose reader is gone it raises SIGPIPE, unlike the sends below: see
    /// ``SignalReceiver/ignoreBrokenPipe()``.
    public static func write(_ descriptor: Int32, from buffer: UnsafeRawBufferPointer) -> IOResult {
        if let kernel = Simulation.kernel(of: descriptor) { return kernel.write(descriptor, from: buffer) }
        return IOResult(systemCall: systemCall { Glibc.write(descriptor, buffer.baseAddress, buffer.count) })
    }

    /// readv(2)
    public static func readv(_ descriptor: Int32, into segments: UnsafePointer<iovec>, count: Int) -> IOResult {
        let count = Int32(clamping: count)
        return IOResult(systemCall: systemCall { Glibc.readv(descriptor, segments, count) })
    }

    /// writev(2). SIGPIPE as for ``write(_:from:)``; use ``sendMessage(_:from:count:flags:)`` on sockets.
    public static func writev(_ descriptor: Int32, from segments: UnsafePointer<iovec>, count: Int) -> IOResult {
        let count = Int32(clamping: count)
        return IOResult(systemCall: systemCall { Glibc.writev(descriptor, segments, count) })
    }

    // MARK: Sockets

    /// recv(2)
    public static func receive(
        _ descriptor: Int32, into buffer: UnsafeMutableRawBufferPointer, flags: MessageFlags = []
    ) -> IOResult {
        if let kernel = Simulation.kernel(of: descriptor) {
            return kernel.receive(descriptor, into: buffer, flags: flags)
        }
        return IOResult(systemCall: systemCall { recv(descriptor, buffer.baseAddress, buffer.count, flags.rawValue) })
    }

    /// send(2)
    public static func send(
        _ descriptor: Int32, from buffer: UnsafeRawBufferPointer, flags: MessageFlags = []
    ) -> IOResult {
        if let kernel = Simulation.kernel(of: descriptor) { return kernel.send(descriptor, from: [buffer]) }
        let flags = flags.union(.noSignal).rawValue
        return IOResult(systemCall: systemCall { Glibc.send(descriptor, buffer.baseAddress, buffer.count, flags) })
    }

    /// send(2) of no byte. It fails like any other send on a connection that takes none; on a seqpacket Unix socket it
    /// is an empty record.
    public static func sendNothing(_ descriptor: Int32) -> IOResult {
        send(descriptor, from: UnsafeRawBufferPointer(start: nil, count: 0))
    }

    /// recvmsg(2): one record, or what a stream has, spread over segments. A record longer than all of them comes back
    /// with ``MessageFlags/truncated``.
    public static func receiveMessage(
        _ descriptor: Int32, into segments: UnsafePointer<iovec>, count: Int, flags: MessageFlags = []
    ) -> MessageResult {
        if let kernel = Simulation.kernel(of: descriptor) {
            return kernel.receive(descriptor, into: segments, count: count, flags: flags)
        }
        var header = msghdr()
        header.msg_iov = UnsafeMutablePointer(mutating: segments)
        header.msg_iovlen = .init(count)
        return receive(descriptor, &header, flags)
    }

    /// recvmsg(2) into one buffer.
    public static func receiveMessage(
        _ descriptor: Int32, into buffer: UnsafeMutableRawBufferPointer, flags: MessageFlags = []
    ) -> MessageResult {
        var segment = iovec(iov_base: buffer.baseAddress, iov_len: buffer.count)
        return receiveMessage(descriptor, into: &segment, count: 1, flags: flags)
    }

    /// sendmsg(2): one record, or bytes of a stream, gathered from segments.
    public static func sendMessage(
        _ descriptor: Int32, from segments: UnsafePointer<iovec>, count: Int, flags: MessageFlags = []
    ) -> IOResult {
        if let kernel = Simulation.kernel(of: descriptor) {
            return kernel.send(descriptor, from: segments, count: count)
        }
        var header = msghdr()
        header.msg_iov = UnsafeMutablePointer(mutating: segments)
        header.msg_iovlen = .init(count)
        return send(descriptor, &header, flags)
    }

    // MARK: Modes

    /// Sets or clears O_NONBLOCK, which belongs to the open file and so to everyone who shares it.
    public static func setNonBlocking(_ descriptor: Int32, _ isNonBlocking: Bool = true) throws(SystemCallError) {
        // Nothing blocks in a simulation.
        guard Simulation.kernel(of: descriptor) == nil else { return }
        let flags = try checked("fcntl") { fcntl(descriptor, F_GETFL) }
        let wanted = isNonBlocking ? flags | O_NONBLOCK : flags & ~O_NONBLOCK
        if wanted != flags { try checked("fcntl") { fcntl(descriptor, F_SETFL, wanted) } }
    }

    /// True if the descriptor is a terminal.
    public static func isTerminal(_ descriptor: Int32) -> Bool {
        isatty(descriptor) == 1
    }

    /// pipe2(2): both ends close on exec.
    public static func makePipe(nonBlocking: Bool) throws(SystemCallError) -> Pipe {
        var ends: (Int32, Int32) = (-1, -1)
        try checked("pipe2") {
            withUnsafeMutableBytes(of: &ends) { bytes in
                guard let base = bytes.assumingMemoryBound(to: Int32.self).baseAddress else { return -1 }
                return cvsock_pipe(base, nonBlocking ? 1 : 0)
            }
        }
        return Pipe(readEnd: OwnedFileDescriptor(owning: ends.0), writeEnd: OwnedFileDescriptor(owning: ends.1))
    }

    // MARK: Shared with descriptor passing

    static func receive(_ descriptor: Int32, _ header: inout msghdr, _ flags: MessageFlags) -> MessageResult {
        let result = withUnsafeMutablePointer(to: &header) { header in
            systemCall { recvmsg(descriptor, header, flags.rawValue) }
        }
        switch IOResult(systemCall: result) {
        case .count(let count): return .message(count: count, flags: MessageFlags(rawValue: header.msg_flags))
        case .wouldBlock: return .wouldBlock
        case .failed(let errno): return .failed(errno)
        }
    }

    static func send(_ descriptor: Int32, _ header: inout msghdr, _ flags: MessageFlags) -> IOResult {
        let flags = flags.union(.noSignal).rawValue
        let result = withUnsafePointer(to: &header) { header in
            systemCall { sendmsg(descriptor, header, flags) }
        }
        return IOResult(systemCall: result)
    }
}

/// The two ends of a pipe. Each may be moved out on its own.
@frozen
public struct Pipe: ~Copyable, Sendable {
    /// The end that is read.
    public var readEnd: OwnedFileDescriptor
    /// The end that is written.
    public var writeEnd: OwnedFileDescriptor

    init(readEnd: consuming OwnedFileDescriptor, writeEnd: consuming OwnedFileDescriptor) {
        self.readEnd = readEnd
        self.writeEnd = writeEnd
    }
}
