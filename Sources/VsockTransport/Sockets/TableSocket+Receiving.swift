// SPDX-License-Identifier: Apache-2.0
//
// recv(2), and payload on its way into the queue.
//
// A record is handed out when its end has come, and its space is free again only then. In the framing of RFC v5 one may
// be larger than the buffer; when half of the buffer is full of it (or of its packets), the socket is readable and a
// receive drains it: into its own buffer, and what does not fit is lost, as with any record that is too long. A receive
// that gives up meanwhile leaves what it has in the socket's `stash`, which is so never larger than a buffer that the
// application has passed; the next receive goes on from there. So memory is bounded by the socket's buffer and the
// application's.
//
// A receive that does not wait (MSG_DONTWAIT) and finds nothing polls the carrier. What comes meanwhile goes straight into
// its buffer: bytes of a stream, and a record that is whole in one packet.

import VirtioQueue
import VsockCore
import VsockWire

extension TableSocket {
    func attemptReceive(
        into buffer: UnsafeMutableRawBufferPointer, _ operation: inout ReceiveOperation
    ) throws(SocketError) -> Attempt<ReceiveResult> {
        if let result = receiveDirectly(buffer, &operation) { return .done(result) }
        table.lock.lock()
        defer { table.lock.unlock() }
        switch state {
        case .closed: throw .badDescriptor
        case .unconnected, .connecting, .listening: throw .notConnected
        case .connected, .disconnected: break
        }
        if localShutdown.contains(.receive) { return .done(end(of: operation)) }
        guard buffer.count > 0 else { return .done(ReceiveResult()) }
        if let attempt = attemptReceiveDirectly(buffer, &operation) { return attempt }
        let attempt = try receiveQueued(buffer, &operation)
        guard case .blocked = attempt, let carrier = table.carrier,
            operation.options.doesNotWait || carrier.isPolled
        else { return attempt }
        return try poll(carrier, buffer, &operation) ?? attempt
    }

    private func receiveQueued(
        _ buffer: UnsafeMutableRawBufferPointer, _ operation: inout ReceiveOperation
    ) throws(SocketError) -> Attempt<ReceiveResult> {
        type == .stream ? try receiveStream(buffer, &operation) : try receiveRecord(buffer, &operation)
    }

    /// Takes packets from the carrier until there is something to receive, or for too long; nil when nothing has come.
    private func poll(
        _ carrier: any PacketCarrier, _ buffer: UnsafeMutableRawBufferPointer, _ operation: inout ReceiveOperation
    ) throws(SocketError) -> Attempt<ReceiveResult>? {
        var attempt: Attempt<ReceiveResult>?
        for _ in 0..<PolledPackets.roundLimit {
            let rest = UnsafeMutableRawBufferPointer(rebasing: buffer[operation.copiedByteCount...])
            let isBetweenRecords = queue.isEmpty && stash.isEmpty && !drainsToStash && drainingToken == 0
            let mayFill = !operation.options.peeks && (type == .stream || isBetweenRecords)
            polledBuffer = mayFill ? PolledBuffer(rest) : nil
            let hasCome = carrier.poll(byteCount: max(1, rest.count))
            let filled = polledBuffer
            polledBuffer = nil
            guard hasCome else { break }
            if let filled, filled.byteCount > 0 || filled.record != nil {
                consume(filled.record?.fullLength ?? filled.byteCount)
                if let record = filled.record { return .done(record) }
                operation.copiedByteCount += filled.byteCount
            }
            attempt = try receiveQueued(buffer, &operation)
            if case .done = attempt { break }
        }
        return attempt
    }

    /// The stream or the records end here, or with the next call when something has been received.
    private func end(of operation: ReceiveOperation) -> ReceiveResult {
        let count = type == .stream ? operation.copiedByteCount : 0
        return ReceiveResult(count: count, fullLength: count, isEnd: count == 0)
    }

    func abandonReceive(from buffer: UnsafeMutableRawBufferPointer, _ operation: inout ReceiveOperation) -> Int {
        table.lock.lock()
        defer { table.lock.unlock() }
        guard type == .seqpacket else { return operation.copiedByteCount }
        guard operation.token != 0, drainingToken == operation.token else { return 0 }
        stash = Array(buffer[..<operation.copiedByteCount])
        drainsToStash = true
        drainingToken = 0
        waits.signal(.readable)
        return 0
    }

    /// Nothing more comes behind what is queued.
    var hasEnded: Bool { peerShutdown.contains(.send) || state == .disconnected }

    /// Whether a receive would not wait.
    var isReadable: Bool {
        guard type == .stream else { return (incoming != nil && unreadNow > 0) || queue.record != nil || mustDrain }
        return unreadNow > 0 && unreadNow >= settingsInForce.receiveLowWaterMark
    }

    /// Bytes that wait to be received.
    var unreadNow: Int { queue.byteCount + (incoming?.pipe.pointee.unreadByteCount ?? 0) }

    // MARK: Streams

    private func receiveStream(
        _ buffer: UnsafeMutableRawBufferPointer, _ operation: inout ReceiveOperation
    ) throws(SocketError) -> Attempt<ReceiveResult> {
        let wanted =
            operation.options.waitsForAll
            ? buffer.count : min(settingsInForce.receiveLowWaterMark, buffer.count)
        if operation.options.peeks {
            operation.copiedByteCount = queue.peek(into: buffer, limit: buffer.count)
        } else {
            let rest = UnsafeMutableRawBufferPointer(rebasing: buffer[operation.copiedByteCount...])
            let count = queue.peek(into: rest, limit: rest.count)
            if count > 0 {
                queue.removeFirst(count)
                operation.copiedByteCount += count
                consume(count)
            }
        }
        let count = operation.copiedByteCount
        // A look is at what is there.
        if count >= wanted || (count > 0 && operation.options.peeks) {
            return .done(ReceiveResult(count: count, fullLength: count))
        }
        if hasEnded {
            if count == 0, let failure { throw failure }
            return .done(end(of: operation))
        }
        return .blocked(waits.ticket(.readable))
    }

    // MARK: Records

    private func receiveRecord(
        _ buffer: UnsafeMutableRawBufferPointer, _ operation: inout ReceiveOperation
    ) throws(SocketError) -> Attempt<ReceiveResult> {
        if operation.token != 0, operation.token != drainingToken {
            // The record was void, and with it what this operation had of it.
            operation.token = 0
            operation.copiedByteCount = 0
        }
        let isOwner = operation.token != 0
        guard isOwner || drainingToken == 0 else { return .blocked(waits.ticket(.readable)) }
        if let record = queue.record { return .done(take(record, buffer, &operation)) }
        if hasEnded {
            _ = dropOpenRecord()
            if let failure { throw failure }
            return .done(ReceiveResult(isEnd: true))
        }
        let ticket = waits.ticket(.readable)
        if mustDrain { drain(buffer, &operation) }
        return .blocked(ticket)
    }

    /// Copies the first record, complete, and removes it unless it is only looked at.
    private func take(
        _ record: ReceiveQueue.Record, _ buffer: UnsafeMutableRawBufferPointer, _ operation: inout ReceiveOperation
    ) -> ReceiveResult {
        var count = operation.copiedByteCount
        if operation.token == 0 {
            count = min(stash.count, buffer.count)
            stash.withUnsafeBytes { buffer.copyMemory(from: UnsafeRawBufferPointer(rebasing: $0[..<count])) }
        }
        let kept = operation.token == 0 ? stash.count : count
        if kept == queue.drainedByteCount {
            let rest = UnsafeMutableRawBufferPointer(rebasing: buffer[count...])
            count += queue.peek(into: rest, limit: record.byteCount - kept)
        }
        let result = ReceiveResult(
            count: count, fullLength: record.byteCount, endOfRecord: record.hasEndOfRecordMark,
            truncated: count < record.byteCount)
        guard !operation.options.peeks else { return result }
        let space = queue.removeRecord()
        forgetDrained()
        // Other readers may have waited for this one.
        if operation.token != 0 || queue.record != nil { waits.signal(.readable) }
        consume(space)
        return result
    }

    /// Whether the rest of the open record may not come before some of it is taken.
    private var mustDrain: Bool {
        guard table.drainsOpenRecords, queue.record == nil, queue.openByteCount > 0 else { return false }
        let size = Int(clamping: settingsInForce.bufferSize)
        // The peer may count packets as well as bytes; below 32 bytes a marker might not fit beside the rest.
        return queue.openByteCount >= (size < 32 ? 1 : size / 2) || queue.openPacketCount >= max(4, size / 1280)
    }

    /// Takes the open record out of the queue, as far as it has come.
    private func drain(_ buffer: UnsafeMutableRawBufferPointer, _ operation: inout ReceiveOperation) {
        let count = queue.openByteCount
        if operation.token == 0, !drainsToStash, !operation.options.peeks {
            operation.token = table.nextToken()
            drainingToken = operation.token
        }
        if operation.token != 0 {
            if operation.copiedByteCount == queue.drainedByteCount {
                let rest = UnsafeMutableRawBufferPointer(rebasing: buffer[operation.copiedByteCount...])
                operation.copiedByteCount += queue.peek(into: rest, limit: count)
            }
        } else {
            drainsToStash = true
            let room = min(count, max(0, buffer.count - stash.count))
            if stash.count == queue.drainedByteCount, room > 0 {
                let start = stash.count
                stash.append(contentsOf: repeatElement(0, count: room))
                stash.withUnsafeMutableBytes { bytes in
                    _ = queue.peek(into: UnsafeMutableRawBufferPointer(rebasing: bytes[start...]), limit: room)
                }
            }
        }
        queue.drainOpenRecord()
        consume(count)
    }

    private func forgetDrained() {
        stash = []
        drainsToStash = false
        drainingToken = 0
    }

    private func dropOpenRecord() -> Int {
        let count = queue.discardOpenRecord()
        if queue.record == nil { forgetDrained() }
        return count
    }

    private func consume(_ count: Int) {
        guard let id else { return }
        table.endpoint.consume(id, byteCount: count)
        endIfDrained()
        table.pump()
    }

    // MARK: From the table

    /// Takes the payload of a packet as its verdict says; `segments` are valid during the call.
    func deliver(_ verdict: PayloadVerdict, _ segments: UnsafeBufferPointer<MemorySegment>) {
        guard let id else { return }
        let isRecord = type == .seqpacket
        if verdict.discardsUnfinishedRecord { table.endpoint.consume(id, byteCount: dropOpenRecord()) }
        if verdict.deliversPayload {
            var count = 0
            for segment in segments { count += segment.count }
            if state == .closed || localShutdown.contains(.receive) {
                table.endpoint.consume(id, byteCount: count)
                return
            }
            if isRecord, verdict.endsRecord, queue.isEmpty,
                polledBuffer?.fill(record: segments, hasEndOfRecordMark: verdict.hasEndOfRecordMark) == true
            {
                return
            }
            for segment in segments {
                var bytes = UnsafeRawBufferPointer(start: segment.base, count: segment.count)
                if !isRecord, queue.byteCount == 0, let count = polledBuffer?.append(bytes) {
                    bytes = UnsafeRawBufferPointer(rebasing: bytes[count...])
                    guard !bytes.isEmpty else { continue }
                }
                queue.append(bytes, isRecord: isRecord)
            }
        }
        if verdict.endsRecord {
            queue.endRecord(hasEndOfRecordMark: verdict.hasEndOfRecordMark)
            guard queue.emptyRecordCount <= SocketTable.maximumEmptyRecordCount else {
                table.endpoint.abort(id)
                return resetByPeer(.connectionReset)
            }
        }
        if isReadable || (!isRecord && queue.byteCount > 0) { waits.signal(.readable) }
    }
}
