// SPDX-License-Identifier: Apache-2.0
//
// Calls that wait. A time limit holds for the call as a whole, and passing it gives the error of Linux: EAGAIN for
// sends and receives, ETIMEDOUT for connects. A cancelled task gets ECANCELED. What a stream has moved by then is
// returned instead; of records, all of one crosses or nothing, and none is lost by a receive that gives up.

import VsockCore
import VsockSystem
import VsockWire

extension ConnectibleSocket {
    // MARK: Threads

    /// Sends all bytes, as one record on a seqpacket socket. Blocks.
    @discardableResult
    public func send(
        _ bytes: UnsafeRawBufferPointer, _ options: SendOptions = SendOptions()
    ) throws(SocketError) -> Int {
        var operation = SendOperation(options)
        let deadline = sendDeadline(options)
        operation.blocksThread = deadline == nil && !options.doesNotWait
        operation.maySpin = !options.doesNotWait
        while true {
            guard case .blocked(let ticket) = try attemptSend(bytes, &operation) else { return operation.sentByteCount }
            let outcome = options.doesNotWait ? .timedOut : wait(ticket, until: deadline)
            if let count = try endSend(&operation, outcome) { return count }
        }
    }

    /// Receives bytes of a stream, or one record. Blocks.
    public func receive(
        into buffer: UnsafeMutableRawBufferPointer, _ options: ReceiveOptions = ReceiveOptions()
    ) throws(SocketError) -> ReceiveResult {
        var operation = ReceiveOperation(options)
        operation.maySpin = !options.doesNotWait
        let deadline = receiveDeadline(options)
        var outcome = WaitOutcome.ready
        while true {
            switch try receiveStep(buffer, &operation, outcome) {
            case .done(let result): return result
            case .blocked(let ticket): outcome = options.doesNotWait ? .timedOut : wait(ticket, until: deadline)
            }
        }
    }

    /// Connects. Blocks, at most for the socket's connect timeout; `doesNotWait` fails with EINPROGRESS instead, and
    /// the socket becomes writable when connecting has ended.
    public func connect(to address: VsockAddress, doesNotWait: Bool = false) throws(SocketError) {
        var operation = ConnectOperation()
        while case .blocked(let ticket) = try attemptConnect(to: address, &operation) {
            guard !doesNotWait else { throw .inProgress }
            if wait(ticket, until: operation.deadline) == .timedOut {
                abandonConnect()
                throw .timedOut
            }
        }
    }

    /// Takes a connection. Blocks, at most for SO_RCVTIMEO.
    public func accept(doesNotWait: Bool = false) throws(SocketError) -> any ConnectibleSocket {
        let deadline = receiveDeadline(ReceiveOptions())
        while true {
            switch try attemptAccept() {
            case .done(let socket): return socket
            case .blocked(let ticket):
                guard !doesNotWait, wait(ticket, until: deadline) == .ready else { throw .wouldBlock }
            }
        }
    }

    /// poll(2): blocks until one of `events` holds, an error or a hang-up; empty when the time has passed.
    public func poll(_ events: SocketReadiness, timeoutNanoseconds: UInt64?) -> SocketReadiness {
        let deadline = timeoutNanoseconds.map { now.advanced(byNanoseconds: $0) }
        while true {
            let ticket = readinessTicket(events.waitKind)
            let ready = readiness.intersection(events.union([.error, .hangUp]))
            if !ready.isEmpty || wait(ticket, until: deadline) == .timedOut { return ready }
        }
    }

    // MARK: Tasks

    /// Sends all bytes, as one record on a seqpacket socket.
    @discardableResult
    nonisolated(nonsending) public func send(
        _ bytes: RawSpan, _ options: SendOptions = SendOptions()
    ) async throws(SocketError) -> Int {
        var operation = SendOperation(options)
        let deadline = sendDeadline(options)
        while true {
            let attempt: Attempt<Int> = try bytes.withUnsafeBytes { (bytes) throws(SocketError) in
                try attemptSend(bytes, &operation)
            }
            guard case .blocked(let ticket) = attempt else { return operation.sentByteCount }
            let outcome = options.doesNotWait ? .timedOut : await waitSuspended(ticket, until: deadline)
            if let count = try endSend(&operation, outcome) { return count }
        }
    }

    /// Receives bytes of a stream, or one record, into the whole of `buffer`.
    nonisolated(nonsending) public func receive(
        into buffer: inout MutableRawSpan, _ options: ReceiveOptions = ReceiveOptions()
    ) async throws(SocketError) -> ReceiveResult {
        try await receiveSuspended(options) { (operation, outcome) throws(SocketError) in
            try buffer.withUnsafeMutableBytes { (bytes) throws(SocketError) in
                try receiveStep(bytes, &operation, outcome)
            }
        }
    }

    /// Receives bytes of a stream, or one record, behind what `buffer` has.
    nonisolated(nonsending) public func receive(
        appendingTo buffer: inout OutputRawSpan, _ options: ReceiveOptions = ReceiveOptions()
    ) async throws(SocketError) -> ReceiveResult {
        try await receiveSuspended(options) { (operation, outcome) throws(SocketError) in
            try buffer.withUnsafeMutableBytes { (bytes, count) throws(SocketError) in
                let step = try receiveStep(
                    UnsafeMutableRawBufferPointer(rebasing: bytes[count...]), &operation, outcome)
                if case .done(let result) = step { count += result.count }
                return step
            }
        }
    }

    nonisolated(nonsending) private func receiveSuspended(
        _ options: ReceiveOptions,
        _ step: (inout ReceiveOperation, WaitOutcome) throws(SocketError) -> Attempt<ReceiveResult>
    ) async throws(SocketError) -> ReceiveResult {
        var operation = ReceiveOperation(options)
        let deadline = receiveDeadline(options)
        var outcome = WaitOutcome.ready
        while true {
            switch try step(&operation, outcome) {
            case .done(let result): return result
            case .blocked(let ticket):
                outcome = options.doesNotWait ? .timedOut : await waitSuspended(ticket, until: deadline)
            }
        }
    }

    /// Connects.
    nonisolated(nonsending) public func connect(to address: VsockAddress) async throws(SocketError) {
        var operation = ConnectOperation()
        while case .blocked(let ticket) = try attemptConnect(to: address, &operation) {
            let outcome = await waitSuspended(ticket, until: operation.deadline)
            guard outcome != .ready else { continue }
            abandonConnect()
            throw outcome == .cancelled ? .cancelled : .timedOut
        }
    }

    /// Takes a connection.
    nonisolated(nonsending) public func accept() async throws(SocketError) -> any ConnectibleSocket {
        let deadline = receiveDeadline(ReceiveOptions())
        while true {
            switch try attemptAccept() {
            case .done(let socket): return socket
            case .blocked(let ticket):
                let outcome = await waitSuspended(ticket, until: deadline)
                if outcome != .ready { throw outcome == .cancelled ? .cancelled : .wouldBlock }
            }
        }
    }

    /// Waits until one of `events` holds, an error or a hang-up.
    nonisolated(nonsending) public func ready(_ events: SocketReadiness) async throws(SocketError) -> SocketReadiness {
        while true {
            let ticket = readinessTicket(events.waitKind)
            let ready = readiness.intersection(events.union([.error, .hangUp]))
            guard ready.isEmpty else { return ready }
            if await waitSuspended(ticket, until: nil) == .cancelled { throw .cancelled }
        }
    }

    // MARK: Parts

    private var now: Instant { Instant(nanoseconds: MonotonicClock.now()) }

    private func deadline(_ timeout: UInt64?, _ setting: UInt64) -> Instant? {
        if let timeout { return now.advanced(byNanoseconds: timeout) }
        return setting == 0 ? nil : now.advanced(byNanoseconds: setting)
    }

    private func sendDeadline(_ options: SendOptions) -> Instant? {
        deadline(options.timeoutNanoseconds, sendTimeoutNanoseconds)
    }

    private func receiveDeadline(_ options: ReceiveOptions) -> Instant? {
        deadline(options.timeoutNanoseconds, receiveTimeoutNanoseconds)
    }

    /// Nil when the send goes on.
    private func endSend(_ operation: inout SendOperation, _ outcome: WaitOutcome) throws(SocketError) -> Int? {
        guard outcome != .ready else { return nil }
        let count = abandonSend(&operation)
        if count > 0 { return count }
        throw outcome == .cancelled ? .cancelled : .wouldBlock
    }

    /// Tries, or ends a receive whose wait ended otherwise. `buffer` is the same for all steps.
    private func receiveStep(
        _ buffer: UnsafeMutableRawBufferPointer, _ operation: inout ReceiveOperation, _ outcome: WaitOutcome
    ) throws(SocketError) -> Attempt<ReceiveResult> {
        guard outcome != .ready else { return try attemptReceive(into: buffer, &operation) }
        let count = abandonReceive(from: buffer, &operation)
        if count > 0 { return .done(ReceiveResult(count: count, fullLength: count)) }
        throw outcome == .cancelled ? .cancelled : .wouldBlock
    }
}
