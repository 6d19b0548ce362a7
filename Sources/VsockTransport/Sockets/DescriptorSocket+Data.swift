// SPDX-License-Identifier: Apache-2.0
//
// send(2) and recv(2) of descriptor sockets.

import VirtioQueue
import VsockCore
import VsockSystem
import VsockWire

extension DescriptorSocket {
    /// Sends what the kernel takes now.
    public func attemptSend(
        _ bytes: UnsafeRawBufferPointer, _ operation: inout SendOperation
    ) throws(SocketError) -> Attempt<Int> {
        if case .kernel = family, type == .seqpacket { return try attemptKernelRecord(bytes, &operation) }
        let flags: MessageFlags = operation.options.endOfRecord && type == .seqpacket ? .endOfRecord : []
        return try withDescriptor(.writable) { (raw, ticket) throws(SocketError) in
            repeat {
                let rest = UnsafeRawBufferPointer(rebasing: bytes[operation.sentByteCount...])
                switch DescriptorIO.send(raw, from: rest, flags: flags.union(.doNotWait)) {
                case .count(let count): operation.sentByteCount += count
                case .wouldBlock: return .blocked(ticket)
                case .failed(let errno):
                    if operation.sentByteCount > 0, type == .stream { return .done(operation.sentByteCount) }
                    throw SocketError(errno: errno.rawValue)
                }
            } while operation.sentByteCount < bytes.count && type == .stream
            return .done(operation.sentByteCount)
        }
    }

    /// A record that the kernel did not take has not been sent at all.
    public func abandonSend(_ operation: inout SendOperation) -> Int {
        type == .stream ? operation.sentByteCount : 0
    }

    /// Takes what the kernel has now.
    public func attemptReceive(
        into buffer: UnsafeMutableRawBufferPointer, _ operation: inout ReceiveOperation
    ) throws(SocketError) -> Attempt<ReceiveResult> {
        guard buffer.count > 0 else { return .done(ReceiveResult()) }
        return try withDescriptor(.readable) { (raw, ticket) throws(SocketError) in
            type == .stream
                ? try receiveStream(raw, ticket, buffer, &operation) : try receiveRecord(raw, ticket, buffer, operation)
        }
    }

    /// A record that the kernel did not give is still there.
    public func abandonReceive(
        from buffer: UnsafeMutableRawBufferPointer, _ operation: inout ReceiveOperation
    ) -> Int { operation.copiedByteCount }

    private func receiveStream(
        _ raw: Int32, _ ticket: WaitTicket, _ buffer: UnsafeMutableRawBufferPointer,
        _ operation: inout ReceiveOperation
    ) throws(SocketError) -> Attempt<ReceiveResult> {
        var flags: MessageFlags = .doNotWait
        if operation.options.peeks {
            flags.insert(.peek)
            operation.copiedByteCount = 0
        }
        let wanted =
            operation.options.waitsForAll
            ? buffer.count : min(settings.receiveLowWaterMark, buffer.count)
        while operation.copiedByteCount < wanted {
            let rest = UnsafeMutableRawBufferPointer(rebasing: buffer[operation.copiedByteCount...])
            switch DescriptorIO.receive(raw, into: rest, flags: flags) {
            case .count(0):
                return .done(result(operation, isEnd: true))
            case .count(let count):
                operation.copiedByteCount += count
                if operation.options.peeks, operation.copiedByteCount < wanted { return .blocked(ticket) }
            case .wouldBlock:
                return .blocked(ticket)
            case .failed(let errno):
                if operation.copiedByteCount > 0 { return .done(result(operation, isEnd: false)) }
                throw SocketError(errno: errno.rawValue)
            }
        }
        return .done(result(operation, isEnd: false))
    }

    private func result(_ operation: ReceiveOperation, isEnd: Bool) -> ReceiveResult {
        let count = operation.copiedByteCount
        return ReceiveResult(count: count, fullLength: count, isEnd: isEnd && count == 0)
    }

    private func receiveRecord(
        _ raw: Int32, _ ticket: WaitTicket, _ buffer: UnsafeMutableRawBufferPointer, _ operation: ReceiveOperation
    ) throws(SocketError) -> Attempt<ReceiveResult> {
        guard let base = buffer.baseAddress else { return .done(ReceiveResult()) }
        var flags: MessageFlags = [.doNotWait, .truncated]
        if operation.options.peeks { flags.insert(.peek) }
        // A segment has the layout of `struct iovec`.
        let result = withUnsafePointer(to: MemorySegment(base: base, count: buffer.count)) { segment in
            segment.withMemoryRebound(to: IOVector.self, capacity: 1) {
                DescriptorIO.receiveMessage(raw, into: $0, count: 1, flags: flags)
            }
        }
        switch result {
        case .message(let length, let flags):
            return .done(
                ReceiveResult(
                    count: min(length, buffer.count), fullLength: length,
                    endOfRecord: flags.contains(.endOfRecord), truncated: length > buffer.count,
                    isEnd: length == 0 && isEnd(raw, flags)))
        case .wouldBlock:
            return .blocked(ticket)
        case .failed(let errno):
            throw SocketError(errno: errno.rawValue)
        }
    }

    /// Whether a receive of 0 bytes was the end; see the top of DescriptorSocket.
    private func isEnd(_ raw: Int32, _ flags: MessageFlags) -> Bool {
        guard case .hybrid = family else { return true }
        if flags.contains(.controlTruncated) { return false }
        // Where SO_PASSCRED was refused, a hang-up has to do.
        let events = try? DescriptorIO.waitUntilReady(raw, for: .readHangUp, timeoutNanoseconds: 0)
        return events?.isDisjoint(with: [.readHangUp, .hangUp, .error]) != true
    }
}
