// SPDX-License-Identifier: Apache-2.0
//
// Many records with one system call: recvmmsg(2) and sendmmsg(2). A batch only borrows the segments of its messages;
// they must stay where they are until the call.

import CVsockLinux
import Glibc

/// A list of messages to receive or to send, allocated once and used again.
public struct MessageBatch: ~Copyable {
    private let messages: UnsafeMutablePointer<cvsock_mmsghdr>

    /// The most messages that fit.
    public let capacity: Int
    /// Messages that were appended since the last ``removeAll()``.
    public private(set) var count = 0

    /// Allocates room for `capacity` messages, 1 to 1024 (the kernel takes no more in one call).
    public init(capacity: Int) {
        precondition(capacity > 0 && capacity <= 1024)
        self.capacity = capacity
        messages = .allocate(capacity: capacity)
        // Filled by appending: what is never used takes no memory.
    }

    deinit {
        messages.deallocate()
    }

    /// Adds a message of `count` segments. False if the batch is full.
    public mutating func append(_ segments: UnsafePointer<iovec>, count segmentCount: Int) -> Bool {
        guard count < capacity else { return false }
        var message = cvsock_mmsghdr()
        message.msg_hdr.msg_iov = UnsafeMutablePointer(mutating: segments)
        message.msg_hdr.msg_iovlen = .init(segmentCount)
        (messages + count).initialize(to: message)
        count += 1
        return true
    }

    /// Forgets all messages.
    public mutating func removeAll() {
        count = 0
    }

    /// Receives into the messages from `first` on: `.count` of messages, whose sizes and flags are below. End of file
    /// looks like empty records for all the messages that are left.
    public mutating func receive(_ descriptor: Int32, from first: Int = 0, flags: MessageFlags = []) -> IOResult {
        precondition(first >= 0 && first <= count)
        if let kernel = Simulation.kernel(of: descriptor) {
            return receive(descriptor, from: first, flags: flags, kernel)
        }
        let number = UInt32(count - first)
        let base = messages + first
        return IOResult(systemCall: systemCall { Int(cvsock_recvmmsg(descriptor, base, number, flags.rawValue)) })
    }

    /// Sends the messages from `first` on: `.count` of messages that went, and the reason for which the next one did
    /// not comes with the next call.
    public mutating func send(_ descriptor: Int32, from first: Int = 0, flags: MessageFlags = []) -> IOResult {
        precondition(first >= 0 && first <= count)
        if let kernel = Simulation.kernel(of: descriptor) { return send(descriptor, from: first, kernel) }
        let number = UInt32(count - first)
        let base = messages + first
        let flags = flags.union(.noSignal).rawValue
        return IOResult(systemCall: systemCall { Int(cvsock_sendmmsg(descriptor, base, number, flags)) })
    }

    private borrowing func receive(
        _ descriptor: Int32, from first: Int, flags: MessageFlags, _ kernel: any SimulatedKernel
    ) -> IOResult {
        for index in first..<count {
            let header = messages[index].msg_hdr
            let result = kernel.receive(
                descriptor, into: header.msg_iov, count: Int(header.msg_iovlen), flags: flags)
            switch result {
            case .message(let byteCount, let flags):
                messages[index].msg_len = UInt32(byteCount)
                messages[index].msg_hdr.msg_flags = flags.rawValue
            case .wouldBlock: return index > first ? .count(index - first) : .wouldBlock
            case .failed(let errno): return index > first ? .count(index - first) : .failed(errno)
            }
        }
        return .count(count - first)
    }

    private borrowing func send(_ descriptor: Int32, from first: Int, _ kernel: any SimulatedKernel) -> IOResult {
        for index in first..<count {
            let header = messages[index].msg_hdr
            let result = kernel.send(descriptor, from: header.msg_iov, count: Int(header.msg_iovlen))
            guard case .count(let byteCount) = result else { return index > first ? .count(index - first) : result }
            messages[index].msg_len = UInt32(byteCount)
        }
        return .count(count - first)
    }

    /// Bytes moved for a message of the last call.
    public borrowing func byteCount(at index: Int) -> Int {
        precondition(index >= 0 && index < count)
        return Int(messages[index].msg_len)
    }

    /// Flags of a message of the last receive.
    public borrowing func flags(at index: Int) -> MessageFlags {
        precondition(index >= 0 && index < count)
        return MessageFlags(rawValue: messages[index].msg_hdr.msg_flags)
    }
}
