// SPDX-License-Identifier: Apache-2.0
//
// Records through the kernel's AF_VSOCK. Its send(2) puts as much of a record on the wire as there is credit for, and
// waits with the rest. Whatever ends that wait (MSG_DONTWAIT, SO_SNDTIMEO, a signal) leaves the beginning of the record
// at the peer, and trying again sends it twice (virtio_transport_seqpacket_enqueue; nothing tells how much went). So a
// record that has begun must go on to its end. A thread that may block for any time sends it itself, as with every
// blocking socket. For a task, with a time limit and with MSG_DONTWAIT a thread of its own sends a copy, and a send that
// gives up meanwhile has sent its record. With MSG_DONTWAIT that is not before the thread has had the time to say what
// the kernel answers at once: that the record has gone, or is too long.
//
//      idle --- attempt, writable ---> sending --- send(2) returns ---> ended --- next attempt ---> idle
//                                         |
//                                         +--- given up ---> leaving --- send(2) returns ---> idle

import VsockCore
import VsockSystem

extension DescriptorSocket {
    /// Where a kernel socket's record is.
    enum RecordSending {
        case idle
        /// Under way, and the send with this token waits for it.
        case sending(UInt64)
        /// Under way, and nobody waits.
        case leaving
        /// What came of the record of the send with this token.
        case ended(UInt64, IOResult)

        /// Whether other records have to wait.
        var isBusy: Bool {
            if case .idle = self { false } else { true }
        }

        /// Whether a send waits for it.
        var isAwaited: Bool {
            if case .sending = self { true } else { false }
        }
    }

    /// How long a send that does not wait looks for the kernel's answer: some hundred times what it takes.
    private static let promptNanoseconds: UInt64 = 10_000_000

    /// Begins a record, or looks what came of it.
    func attemptSendKernelRecord(
        _ bytes: UnsafeRawBufferPointer, _ operation: inout SendOperation
    ) throws(SocketError) -> Attempt<Int> {
        if operation.token != 0 { return try recordOutcome(&operation) }
        if let failure = takeFailure(\.sendFailure) { throw failure }
        return try withDescriptor(.writable) { (raw, ticket) throws(SocketError) in
            // What the socket's state says, it says at once. Like Linux, nothing is sent for an empty record.
            if case .failed(let errno) = DescriptorIO.sendNothing(raw) { throw SocketError(errno: errno.rawValue) }
            guard bytes.count > 0 else { return .done(0) }
            let events = try Self.call { () throws(SystemCallError) in
                try DescriptorIO.waitUntilReady(raw, for: .writable, timeoutNanoseconds: 0)
            }
            guard !events.isEmpty, let (token, descriptor) = takeTurn() else { return .blocked(ticket) }
            operation.token = token
            operation.sentByteCount = bytes.count
            let flags: MessageFlags = operation.options.endOfRecord ? .endOfRecord : []
            guard !operation.blocksThread else {
                sendWhole(bytes, flags, token, descriptor)
                return try recordOutcome(&operation)
            }
            let record = [UInt8](bytes)
            do throws(SystemCallError) {
                _ = try WorkerThread(name: "vsock-record") {
                    record.withUnsafeBytes { self.sendWhole($0, flags, token, descriptor) }
                }
            } catch {
                lock.withLock { recordSending = .idle }
                throw .noBufferSpace
            }
            return operation.options.doesNotWait ? try promptOutcome(&operation) : .blocked(ticket)
        }
    }

    /// What came of the record, unless the kernel waits with it.
    private func promptOutcome(_ operation: inout SendOperation) throws(SocketError) -> Attempt<Int> {
        let deadline = Instant(nanoseconds: MonotonicClock.now()).advanced(byNanoseconds: Self.promptNanoseconds)
        while true {
            let attempt = try recordOutcome(&operation)
            guard case .blocked(let ticket) = attempt, waits.wait(ticket, until: deadline) == .ready else {
                return attempt
            }
        }
    }

    /// The record goes on; its send has sent it.
    func abandonKernelRecord(_ operation: SendOperation) -> Int {
        guard operation.token != 0 else { return 0 }
        lock.lock()
        defer { lock.unlock() }
        switch recordSending {
        case .sending(operation.token):
            recordSending = .leaving
        case .ended(operation.token, let result):
            endRecord(result)
            if sendFailure != nil { return 0 }
        default: break
        }
        return operation.sentByteCount
    }

    private func takeTurn() -> (UInt64, SharedFileDescriptor)? {
        lock.withLock {
            guard !recordSending.isBusy, let descriptor else { return nil }
            lastToken &+= 1
            recordSending = .sending(lastToken)
            return (lastToken, descriptor)
        }
    }

    private func recordOutcome(_ operation: inout SendOperation) throws(SocketError) -> Attempt<Int> {
        lock.lock()
        defer { lock.unlock() }
        guard !isClosed else { throw .badDescriptor }
        guard case .ended(operation.token, let result) = recordSending else {
            return .blocked(waits.ticket(.writable))
        }
        operation.token = 0
        endRecord(result)
        defer { sendFailure = nil }
        if let sendFailure { throw sendFailure }
        return .done(operation.sentByteCount)
    }

    /// Blocks until the kernel has the record.
    private func sendWhole(
        _ record: UnsafeRawBufferPointer, _ flags: MessageFlags, _ token: UInt64, _ descriptor: SharedFileDescriptor
    ) {
        let result = DescriptorIO.send(descriptor.rawValue, from: record, flags: flags)
        withExtendedLifetime(descriptor) {}
        lock.withLock {
            if case .sending(token) = recordSending {
                recordSending = .ended(token, result)
                waits.signal(.writable)
            } else {
                endRecord(result)
            }
        }
    }

    /// With the lock: the next record may go.
    private func endRecord(_ result: IOResult) {
        recordSending = .idle
        switch result {
        case .count: break
        // AF_VSOCK before Linux 6.2 calls every failure of a send ENOMEM.
        case .failed(.outOfMemory): sendFailure = .messageTooLong
        case .failed(let errno): sendFailure = SocketError(errno: errno.rawValue)
        case .wouldBlock: sendFailure = .wouldBlock
        }
        if let direction = shutdownAfterRecord, let descriptor {
            // A connection that has ended meanwhile needs none.
            try? SocketOptions.shutdown(descriptor.rawValue, direction.systemDirection)
        }
        shutdownAfterRecord = nil
        waits.signal(.writable)
    }
}
