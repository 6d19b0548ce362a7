// SPDX-License-Identifier: Apache-2.0
//
// Records into the kernel's AF_VSOCK. A send there that may not wait is not all or nothing: it puts what there is credit
// for on the wire, says EAGAIN, and does not say how much it was (vsock_connectible_sendmsg). Sent again, the record
// would follow its own beginning. So a record is sent by a call that waits: the calling thread's, or, for a task, one of
// a thread made for it. Only who asks for MSG_DONTWAIT gets what the kernel makes of it.

import Synchronization
import VsockCore
import VsockSystem
import VsockWire

/// A record of a task, on its way.
final class KernelRecord: Sendable {
    let outcome = Mutex<Result<Int, SocketError>?>(nil)
}

extension DescriptorSocket {
    /// A connection exists: its calls may wait from now on, and say so one by one where they do not.
    func becameConnected() throws(SocketError) {
        guard case .kernel = family, type == .seqpacket else { return }
        try withDescriptor(.any) { (raw, _) throws(SocketError) in
            try Self.call { () throws(SystemCallError) in try DescriptorIO.setNonBlocking(raw, false) }
        }
    }

    func attemptKernelRecord(
        _ bytes: UnsafeRawBufferPointer, _ operation: inout SendOperation
    ) throws(SocketError) -> Attempt<Int> {
        let options = operation.options
        if operation.blocksThread || options.doesNotWait {
            return try withDescriptor(.writable) { (raw, ticket) throws(SocketError) in
                switch sendKernelRecord(raw, bytes, options) {
                case .count(let count):
                    operation.sentByteCount = count
                    return .done(count)
                case .wouldBlock where options.doesNotWait: return .blocked(ticket)
                case .wouldBlock: throw .wouldBlock
                case .failed(let errno): throw SocketError(errno: errno.rawValue)
                }
            }
        }
        let ticket = try withDescriptor(.writable) { (_, ticket) in ticket }
        guard let record = operation.kernelRecord else {
            operation.kernelRecord = try start(Array(bytes), options)
            return .blocked(ticket)
        }
        guard let outcome = record.outcome.withLock({ $0 }) else { return .blocked(ticket) }
        operation.sentByteCount = try outcome.get()
        return .done(operation.sentByteCount)
    }

    /// Sends a record on a thread of its own, which goes on when the task gives up.
    private func start(_ bytes: [UInt8], _ options: SendOptions) throws(SocketError) -> KernelRecord {
        let record = KernelRecord()
        do throws(SystemCallError) {
            _ = try WorkerThread(name: "vsock-record") { [self] in
                let outcome = Result { () throws(SocketError) in
                    try withDescriptor(.any) { (raw, _) throws(SocketError) in
                        switch bytes.withUnsafeBytes({ sendKernelRecord(raw, $0, options) }) {
                        case .count(let count): return count
                        case .wouldBlock: throw .wouldBlock
                        case .failed(let errno): throw SocketError(errno: errno.rawValue)
                        }
                    }
                }
                record.outcome.withLock { $0 = outcome }
                lock.withLock { waits.signal(.writable) }
            }
        } catch {
            throw SocketError(errno: error.errno.rawValue)
        }
        return record
    }

    private func sendKernelRecord(_ raw: Int32, _ bytes: UnsafeRawBufferPointer, _ options: SendOptions) -> IOResult {
        var flags: MessageFlags = options.endOfRecord ? .endOfRecord : []
        if options.doesNotWait { flags.insert(.doNotWait) }
        lock.withLock {
            kernelRecordCount += 1
            let timeout = options.timeoutNanoseconds ?? settingsInForce.sendTimeoutNanoseconds
            guard timeout != kernelSendTimeout else { return }
            kernelSendTimeout = timeout
            try? SocketOptions.setSendTimeout(raw, nanoseconds: timeout)
        }
        defer { lock.withLock { kernelRecordCount -= 1 } }
        switch DescriptorIO.send(raw, from: bytes, flags: flags) {
        // Before Linux 6.2 every failure was ENOMEM, and the usual one that of a record larger than the peer's buffer.
        case .failed(.outOfMemory): return .failed(.messageTooLong)
        case let result: return result
        }
    }
}
