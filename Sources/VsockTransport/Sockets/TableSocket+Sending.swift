// SPDX-License-Identifier: Apache-2.0
//
// send(2). Packets are made from the application's bytes and put into the carrier's slots by the calling thread.
//
// A record crosses as a whole or not at all, whatever ends its send:
//
//  * One that fits the peer's buffer begins only when there is credit for all of it. After that only room in the carrier
//    can be missing; then the rest is copied (it is bounded by the peer's buffer), the send has succeeded, and the rest
//    goes when there is room, before anything else of this socket, its shutdown and close included.
//  * A larger one exists only in the framing of RFC v5. A send that gives up leaves it without its end, and the peer
//    throws it away when the next begins. It cannot be sent without waiting, so MSG_DONTWAIT gets EMSGSIZE.
//
// One record at a time: other senders wait for its end.

import VsockCore
import VsockWire

extension TableSocket {
    func attemptSend(
        _ bytes: UnsafeRawBufferPointer, _ operation: inout SendOperation
    ) throws(SocketError) -> Attempt<Int> {
        if let attempt = sendDirectly(bytes, &operation) { return attempt }
        table.lock.lock()
        defer { table.lock.unlock() }
        let attempt = try attemptOnce(bytes, &operation)
        // Over a loopback, a peer that was asked for credit has answered by now.
        guard case .blocked(let ticket) = attempt, waits.hasEvent(since: ticket) || pollsForRoom(ticket, operation)
        else { return attempt }
        return try attemptOnce(bytes, &operation)
    }

    /// Takes packets from the carrier, for a caller that does not wait; whether they have brought what it waits for.
    private func pollsForRoom(_ ticket: WaitTicket, _ operation: SendOperation) -> Bool {
        guard let carrier = table.carrier, operation.options.doesNotWait || carrier.isPolled else { return false }
        for _ in 0..<PolledPackets.roundLimit where carrier.poll(byteCount: 1) {
            table.pump()
            if waits.hasEvent(since: ticket) { return true }
        }
        return false
    }

    private func attemptOnce(
        _ bytes: UnsafeRawBufferPointer, _ operation: inout SendOperation
    ) throws(SocketError) -> Attempt<Int> {
        let id: ConnectionID
        do throws(SocketError) {
            id = try sendable()
        } catch {
            endRecord(&operation)
            guard operation.sentByteCount > 0, type == .stream else { throw error }
            return .done(operation.sentByteCount)
        }
        if let attempt = try attemptSendDirectly(bytes, &operation) { return attempt }
        defer { table.pump() }
        return type == .stream
            ? sendStream(id, bytes, &operation) : try sendRecord(id, bytes, &operation)
    }

    func abandonSend(_ operation: inout SendOperation) -> Int {
        table.lock.lock()
        defer { table.lock.unlock() }
        endRecord(&operation)
        return type == .stream ? operation.sentByteCount : 0
    }

    /// The checks of send(2), in Linux's order but for the failure.
    private func sendable() throws(SocketError) -> ConnectionID {
        if state == .closed { throw .badDescriptor }
        if let failure, state == .disconnected { throw failure }
        if localShutdown.contains(.send) || peerShutdown.contains(.receive) { throw .brokenPipe }
        guard state == .connected, let id else { throw .notConnected }
        return id
    }

    // MARK: Streams

    private func sendStream(
        _ id: ConnectionID, _ bytes: UnsafeRawBufferPointer, _ operation: inout SendOperation
    ) -> Attempt<Int> {
        guard let carrier = table.carrier else { return .blocked(waits.ticket(.writable)) }
        while operation.sentByteCount < bytes.count {
            let remaining = bytes.count - operation.sentByteCount
            let credit = table.endpoint.sendableByteCount(id)
            guard credit > 0 else { return .blocked(waits.ticket(.writable)) }
            guard let capacity = carrier.capacity(wanting: min(credit, remaining)) else {
                table.waitForRoom(self)
                return .blocked(waits.ticket(.writable))
            }
            guard let packet = table.endpoint.nextPacket(id, offering: remaining, capacity: capacity) else {
                return .blocked(waits.ticket(.writable))
            }
            let count = Int(packet.header.payloadByteCount)
            let start = operation.sentByteCount
            operation.sentByteCount += count
            table.commit(packet.header, UnsafeRawBufferPointer(rebasing: bytes[start..<(start + count)]), to: carrier)
        }
        return .done(operation.sentByteCount)
    }

    // MARK: Records

    private func sendRecord(
        _ id: ConnectionID, _ bytes: UnsafeRawBufferPointer, _ operation: inout SendOperation
    ) throws(SocketError) -> Attempt<Int> {
        // The standard framing has no encoding for an empty record; like Linux, nothing is sent for it.
        guard bytes.count > 0 || table.drainsOpenRecords else { return .done(0) }
        let ticket = waits.ticket(.writable)
        let isWhole = fitsPeer(id, bytes.count)
        if operation.token == 0 {
            guard try begin(id, byteCount: bytes.count, isWhole: isWhole, &operation) else { return .blocked(ticket) }
        }
        if let carrier = table.carrier {
            if sendPackets(id, carrier, bytes, &operation.sentByteCount) {
                endRecord(&operation)
                operation.sentByteCount = bytes.count
                return .done(bytes.count)
            }
        }
        guard isWhole else { return .blocked(ticket) }
        remainder = Array(bytes[operation.sentByteCount...])
        remainderOffset = 0
        hasRemainder = true
        operation.sentByteCount = bytes.count
        sendingToken = 0
        return .done(bytes.count)
    }

    /// Starts a record; false when that has to wait.
    private func begin(
        _ id: ConnectionID, byteCount: Int, isWhole: Bool, _ operation: inout SendOperation
    ) throws(SocketError) -> Bool {
        guard byteCount <= table.endpoint.maximumRecordByteCount(id) else { throw .messageTooLong }
        guard isWhole || !operation.options.doesNotWait else { throw .messageTooLong }
        guard sendingToken == 0, !hasRemainder else { return false }
        let overhead = recordOverhead
        let packetCount = (byteCount + usualCapacity - 1) / usualCapacity + overhead.packetCount
        // What does not fit needs credit for its first packet.
        let needed = isWhole ? byteCount + overhead.byteCount : overhead.byteCount
        guard table.endpoint.hasCredit(id, byteCount: needed, packetCount: isWhole ? packetCount : 1) else {
            return false
        }
        try table.endpoint.beginRecord(
            id, byteCount: byteCount, endOfRecord: operation.options.endOfRecord)
        operation.token = table.nextToken()
        sendingToken = operation.token
        return true
    }

    /// Sends packets of the record under way; false when credit or room is missing.
    private func sendPackets(
        _ id: ConnectionID, _ carrier: any PacketCarrier, _ bytes: UnsafeRawBufferPointer, _ offset: inout Int
    ) -> Bool {
        while table.endpoint.isSendingRecord(id) {
            let remaining = bytes.count - offset
            let credit = table.endpoint.sendableByteCount(id)
            guard credit > 0 else { return false }
            guard let capacity = carrier.capacity(wanting: max(SequenceHeader.byteCount, min(credit, remaining)))
            else {
                table.waitForRoom(self)
                return false
            }
            guard let packet = table.endpoint.nextPacket(id, offering: remaining, capacity: capacity) else {
                return false
            }
            switch packet.payload {
            case .none:
                table.commit(packet.header, UnsafeRawBufferPointer(start: nil, count: 0), to: carrier)
            case .application(let count):
                let start = offset
                offset += count
                table.commit(packet.header, UnsafeRawBufferPointer(rebasing: bytes[start..<offset]), to: carrier)
            case .marker(let marker):
                withUnsafeTemporaryAllocation(byteCount: SequenceHeader.byteCount, alignment: 8) { area in
                    marker.write(to: area)
                    table.commit(packet.header, UnsafeRawBufferPointer(area), to: carrier)
                }
            }
        }
        return true
    }

    /// The operation has its record under way no longer; a record that is not complete is abandoned.
    private func endRecord(_ operation: inout SendOperation) {
        guard operation.token != 0, sendingToken == operation.token else { return }
        sendingToken = 0
        if let id { table.endpoint.abandonRecord(id) }
        waits.signal(.writable)
    }

    /// Sends what is left of a record whose send has returned. With the lock, from the table.
    func sendRemainder() {
        guard hasRemainder, let id, let carrier = table.carrier else { return }
        let bytes = remainder
        var offset = remainderOffset
        let isSent = bytes.withUnsafeBytes { sendPackets(id, carrier, $0, &offset) }
        remainderOffset = offset
        guard isSent else { return }
        remainder = []
        remainderOffset = 0
        hasRemainder = false
        if closesAfterRemainder {
            closesAfterRemainder = false
            table.endpoint.close(id, now: table.now)
            table.part(self)
        } else if !shutdownAfterRemainder.isEmpty {
            table.endpoint.shutdown(id, shutdownAfterRemainder)
            shutdownAfterRemainder = []
        }
    }

    private var usualCapacity: Int { max(1, table.carrier?.usualCapacity ?? 1) }

    private var recordOverhead: (byteCount: Int, packetCount: Int) {
        table.drainsOpenRecords ? (2 * SequenceHeader.byteCount, 2) : (0, 0)
    }

    private func fitsPeer(_ id: ConnectionID, _ byteCount: Int) -> Bool {
        guard let credit = table.endpoint.snapshot(id)?.credit else { return false }
        return byteCount + recordOverhead.byteCount <= Int(credit.peerBufferAllocation)
    }
}
