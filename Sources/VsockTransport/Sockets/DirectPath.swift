// SPDX-License-Identifier: Apache-2.0
//
// Data between two sockets of one table that does not go through packets. As long as a connection is established,
// nobody has shut the direction and nobody watches packets, its data crosses in a `DirectPipe`: the sender's thread
// copies it in, the receiver's copies it out, and the table's lock is taken only to sleep and to wake.
//
// Whatever else happens to a connection (shutdown, close, reset, another buffer size, a tap) first settles the
// direction: what is unread moves to the receiver's queue and into the core's credit, as if it had come in packets, and
// from then on packets carry that direction. So the ends of sockets know nothing of pipes.

import Synchronization
import VsockCore
import VsockWire

/// One direction of a connection. Both sockets own it, and it knows them only by their connections.
final class DirectPath: @unchecked Sendable {
    // Unchecked because of the pipe's address, which never changes.

    /// A socket's connection, and those who wait for it.
    struct Side {
        let id: ConnectionID
        let waits: WaitPoint
    }

    let pipe: UnsafeMutablePointer<DirectPipe>
    let sender: Side
    let receiver: Side

    init(_ type: SocketType, capacity: Int, from sender: Side, to receiver: Side) {
        pipe = .allocate(capacity: 1)
        pipe.initialize(to: DirectPipe(type, capacity: capacity))
        self.sender = sender
        self.receiver = receiver
    }

    deinit {
        pipe.deinitialize(count: 1)
        pipe.deallocate()
    }

    /// Wakes receivers that sleep. With the table's lock.
    func wakeReceivers() {
        if pipe.pointee.takeAwaited() { receiver.waits.signal(.readable) }
    }

    /// Wakes senders that sleep. With the table's lock.
    func wakeSenders() {
        if pipe.pointee.takeAwaitedRoom() { sender.waits.signal(.writable) }
    }
}

// MARK: Without the table's lock

extension TableSocket {
    /// Sends what there is room for in the pipe; nil when the attempt needs the table's lock.
    @inline(__always)
    func sendDirectly(_ bytes: UnsafeRawBufferPointer, _ operation: inout SendOperation) -> Attempt<Int>? {
        guard let pipe = outgoingPipe.load(ordering: .acquiring), !bytes.isEmpty else { return nil }
        var maySpin = operation.maySpin
        if maySpin { pipe.pointee.spinForRendezvous(bytes.count) }
        while true {
            let before = operation.sentByteCount
            guard let isDone = advance(pipe, bytes, &operation, isLocked: false) else { return nil }
            if isDone { return .done(operation.sentByteCount) }
            // Not all of a stream may have fitted the receiver's buffer.
            if operation.sentByteCount > before { continue }
            guard maySpin, pipe.pointee.spinForRoom(bytes.count - operation.sentByteCount) else { return nil }
            maySpin = false
        }
    }

    /// Puts what fits into the pipe; nil when that is closed, else whether all is sent.
    private func advance(
        _ pipe: UnsafeMutablePointer<DirectPipe>, _ bytes: UnsafeRawBufferPointer, _ operation: inout SendOperation,
        isLocked: Bool
    ) -> Bool? {
        let rest = UnsafeRawBufferPointer(rebasing: bytes[operation.sentByteCount...])
        let result = pipe.pointee.send(rest, hasEndOfRecordMark: operation.options.endOfRecord)
        guard let count = result.byteCount else { return nil }
        operation.sentByteCount += count
        if result.mustWake {
            if isLocked { outgoing?.wakeReceivers() } else { table.lock.withLock { outgoing?.wakeReceivers() } }
        }
        return operation.sentByteCount == bytes.count
    }

    /// Receives what is in the pipe; nil when the attempt needs the table's lock.
    func receiveDirectly(
        _ buffer: UnsafeMutableRawBufferPointer, _ operation: inout ReceiveOperation
    ) -> ReceiveResult? {
        guard let pipe = incomingPipe.load(ordering: .acquiring), buffer.count > 0 else { return nil }
        if let result = take(pipe, buffer, &operation, isLocked: false) { return result }
        guard operation.maySpin else { return nil }
        let room = operation.options.peeks ? 0 : buffer.count - operation.copiedByteCount
        if room >= DirectPipe.offeredByteCount {
            let rest = UnsafeMutableRawBufferPointer(rebasing: buffer[operation.copiedByteCount...])
            if let result = pipe.pointee.spinOffering(rest) { return use(result, buffer, &operation) }
        } else if !pipe.pointee.spinForData() {
            return nil
        }
        return take(pipe, buffer, &operation, isLocked: false)
    }

    /// Takes what the pipe has; nil when that is not enough.
    private func take(
        _ pipe: UnsafeMutablePointer<DirectPipe>, _ buffer: UnsafeMutableRawBufferPointer,
        _ operation: inout ReceiveOperation, isLocked: Bool
    ) -> ReceiveResult? {
        let peeks = operation.options.peeks
        let rest = peeks ? buffer : UnsafeMutableRawBufferPointer(rebasing: buffer[operation.copiedByteCount...])
        let outcome = pipe.pointee.receive(into: rest, peeks: peeks)
        if outcome.mustWake {
            if isLocked { incoming?.wakeSenders() } else { table.lock.withLock { incoming?.wakeSenders() } }
        }
        return outcome.kind == .received ? use(outcome.result, buffer, &operation) : nil
    }

    /// What a receive returns when it has got something; nil when a stream's has not got enough yet.
    private func use(
        _ result: ReceiveResult, _ buffer: UnsafeMutableRawBufferPointer, _ operation: inout ReceiveOperation
    ) -> ReceiveResult? {
        // A look is at what is there.
        guard type == .stream, !operation.options.peeks else { return result }
        operation.copiedByteCount += result.count
        let count = operation.copiedByteCount
        let mark = operation.options.waitsForAll ? buffer.count : receiveLowWaterMark.load(ordering: .relaxed)
        let wanted = min(mark, buffer.count)
        return count >= wanted ? ReceiveResult(count: count, fullLength: count) : nil
    }
}

// MARK: With the table's lock

extension TableSocket {
    /// As `sendDirectly`, and asks to be woken when there is room; nil when packets carry the direction.
    func attemptSendDirectly(
        _ bytes: UnsafeRawBufferPointer, _ operation: inout SendOperation
    ) throws(SocketError) -> Attempt<Int>? {
        guard let pipe = outgoing?.pipe else { return nil }
        // There is no encoding for an empty record, and nothing to send of a stream.
        guard bytes.count > 0 else { return .done(0) }
        guard type == .stream || bytes.count <= pipe.pointee.capacity else { throw .messageTooLong }
        let ticket = waits.ticket(.writable)
        pipe.pointee.awaitRoom(type == .stream ? 1 : bytes.count)
        guard let isDone = advance(pipe, bytes, &operation, isLocked: true) else { return nil }
        return isDone ? .done(operation.sentByteCount) : .blocked(ticket)
    }

    /// As `receiveDirectly`, and asks to be woken when something comes; nil when packets carry the direction.
    func attemptReceiveDirectly(
        _ buffer: UnsafeMutableRawBufferPointer, _ operation: inout ReceiveOperation
    ) -> Attempt<ReceiveResult>? {
        guard let pipe = incoming?.pipe else { return nil }
        let ticket = waits.ticket(.readable)
        pipe.pointee.awaitData()
        if let result = take(pipe, buffer, &operation, isLocked: true) { return .done(result) }
        return .blocked(ticket)
    }

    /// Packets carry what this socket sends from now on.
    func settleOutgoing() {
        guard let path = outgoing else { return }
        table.settle(path)
    }

    /// Packets carry what this socket receives from now on.
    func settleIncoming() {
        guard let path = incoming else { return }
        table.settle(path)
    }
}

extension SocketTable {
    /// Joins two sockets whose connection has just been made, if their data need not go through packets.
    func joinDirectly(_ first: TableSocket, _ header: PacketHeader) {
        // Framings differ in what they can say, but on the wire only.
        guard carriesDirectly, tap == nil, first.type == .stream || !drainsOpenRecords, let firstID = first.id,
            let reversed = header.resetWithoutSocket, let secondID = endpoint.connection(of: reversed),
            let second = socket(secondID)
        else { return }
        let near = DirectPath.Side(id: firstID, waits: first.waits)
        let far = DirectPath.Side(id: secondID, waits: second.waits)
        let there = DirectPath(first.type, capacity: Int(second.settingsInForce.bufferSize), from: near, to: far)
        let back = DirectPath(first.type, capacity: Int(first.settingsInForce.bufferSize), from: far, to: near)
        first.use(outgoing: there, incoming: back)
        second.use(outgoing: back, incoming: there)
    }

    /// Packets carry a direction from now on.
    func settle(_ path: DirectPath) {
        let receiver = socket(path.receiver.id)
        var byteCount = 0
        path.pipe.pointee.close { bytes, endsRecord, hasEndOfRecordMark in
            byteCount += bytes.count
            guard let receiver else { return }
            receiver.queue.append(bytes, isRecord: receiver.type == .seqpacket)
            if endsRecord { receiver.queue.endRecord(hasEndOfRecordMark: hasEndOfRecordMark) }
        }
        endpoint.cross(from: path.sender.id, to: path.receiver.id, byteCount: byteCount)
        if let sender = socket(path.sender.id) { sender.outgoing = nil }
        receiver?.incoming = nil
        // Who waits for the pipe waits for packets now.
        path.sender.waits.signal(.writable)
        path.receiver.waits.signal(.readable)
    }

    /// Packets carry everything from now on.
    func settleAll() {
        for case let socket? in sockets {
            socket.settleOutgoing()
            socket.settleIncoming()
        }
    }
}
