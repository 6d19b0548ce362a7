// SPDX-License-Identifier: Apache-2.0
//
// send(2) and recv(2) of descriptor sockets.

import VsockCore
import VsockSystem
import VsockWire

extension DescriptorSocket {
    /// Sends what the kernel takes now.
    public func attemptSend(
        _ bytes: UnsafeRawBufferPointer, _ operation: inout SendOperation
    ) throws(SocketError) -> Attempt<Int> {
        if type == .seqpacket, case .kernel = family { return try attemptSendKernelRecord(bytes, &operation) }
        let flags: MessageFlags = operation.options.endOfRecord && type == .seqpacket ? .endOfRecord : []
        return try withDescriptor(.writable) { (raw, ticket) throws(SocketError) in
            repeat {
                let rest = UnsafeRawBufferPointer(rebasing: bytes[operation.sentByteCount...])
                switch DescriptorIO.send(raw, from: rest, flags: flags.union(.doNotWait)) {
                case .count(let count): operation.sentByteCount += count
                case .wouldBlock: return .blocked(ticket)
                case .failed(let errno):
                    // The next send fails in the same way.
                    if operation.sentByteCount > 0, type == .stream { return .done(operation.sentByteCount) }
                    throw SocketError(errno: errno.rawValue)
                }
            } while operation.sentByteCount < bytes.count && type == .stream
            return .done(operation.sentByteCount)
        }
    }

    /// A record that a Unix socket did not take has not been sent at all; for the kernel's see +KernelRecords.
    public func abandonSend(_ operation: inout SendOperation) -> Int {
        if type == .seqpacket, case .kernel = family { return abandonKernelRecord(operation) }
        return type == .stream ? operation.sentByteCount : 0
    }

    /// Takes what the kernel has now.
    public func attemptReceive(
        into buffer: UnsafeMutableRawBufferPointer, _ operation: inout ReceiveOperation
    ) throws(SocketError) -> Attempt<ReceiveResult> {
        try withDescriptor(.readable) { (raw, ticket) throws(SocketError) in
            guard buffer.count > 0 else {
                // For no bytes the kernel only looks at the socket's state.
                if case .kernel = family, case .failed(let errno) = DescriptorIO.receive(raw, into: buffer) {
                    throw SocketError(errno: errno.rawValue)
                }
                return .done(ReceiveResult())
            }
            return type == .stream
                ? try receiveStream(raw, ticket, buffer, &operation) : try receiveRecord(raw, ticket, buffer, operation)
        }
    }

    /// A record that the kernel did not give is still there.
    public func abandonReceive(
        from buffer: UnsafeMutableRawBufferPointer, _ operation: inout ReceiveOperation
    ) -> Int { operation.options.peeks ? 0 : operation.copiedByteCount }

    private func receiveStream(
        _ raw: Int32, _ ticket: WaitTicket, _ buffer: UnsafeMutableRawBufferPointer,
        _ operation: inout ReceiveOperation
    ) throws(SocketError) -> Attempt<ReceiveResult> {
        if let failure = takeFailure(\.receiveFailure) { throw failure }
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
                guard operation.options.peeks, operation.copiedByteCount < wanted else { continue }
                // A second look would see the same bytes again, and more only if more can come: a Unix socket waits for
                // that, AF_VSOCK does not.
                if case .kernel = family { return .done(result(operation, isEnd: false)) }
                return hasHungUp(raw) ? .done(result(operation, isEnd: false)) : .blocked(ticket)
            case .wouldBlock:
                return .blocked(ticket)
            case .failed(let errno):
                let error = SocketError(errno: errno.rawValue)
                guard operation.copiedByteCount > 0 else { throw error }
                lock.withLock { receiveFailure = error }
                return .done(result(operation, isEnd: false))
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
        var flags: MessageFlags = [.doNotWait, .truncated]
        if operation.options.peeks { flags.insert(.peek) }
        switch DescriptorIO.receiveMessage(raw, into: buffer, flags: flags) {
        case .message(let length, let flags):
            return .done(
                ReceiveResult(
                    count: min(length, buffer.count), fullLength: length,
                    endOfRecord: flags.contains(.endOfRecord), truncated: length > buffer.count,
                    isEnd: length == 0 && isEnd(raw, flags)))
        case .wouldBlock:
            return .blocked(ticket)
        case .failed(.outOfMemory) where operation.options.peeks:
            // What AF_VSOCK before Linux 6.2 calls a peek at a record, which it has not got.
            throw .notSupported
        case .failed(let errno):
            throw SocketError(errno: errno.rawValue)
        }
    }

    /// Whether a record of 0 bytes is none but the end. A hang-up alone does not say it: it shows as soon as the peer
    /// has shut its direction, with records still unread.
    private func isEnd(_ raw: Int32, _ flags: MessageFlags) -> Bool {
        if case .hybrid = family, flags.contains(.controlTruncated) { return false }
        return hasHungUp(raw)
    }

    /// Whether nothing more comes behind what is there.
    private func hasHungUp(_ raw: Int32) -> Bool {
        let events = try? DescriptorIO.waitUntilReady(raw, for: .readHangUp, timeoutNanoseconds: 0)
        return events?.isDisjoint(with: [.readHangUp, .hangUp, .error]) != true
    }
}
