// SPDX-License-Identifier: Apache-2.0
//
// Packets to the peer, produced when the carrier has room for them (Linux: `virtio_transport_send_pkt_info`). So
// there is no queue of packets: a connection owes a set of control packets, and payload stays with its owner until
// it is asked for.

import VsockWire

extension Endpoint {
    /// Whether ``nextControlPacket()`` has something to say.
    public var hasControlPackets: Bool { replyHead < replies.count || !controlQueue.isEmpty }

    /// Whether a credit update of this connection is among that.
    public func owesCreditUpdate(_ id: ConnectionID) -> Bool {
        slot(id).map { connections[$0].pending.contains(.creditUpdate) } ?? false
    }

    /// The next packet without payload of the application; nil when there is none.
    public mutating func nextControlPacket() -> PacketHeader? {
        if replyHead < replies.count {
            let reply = replies[replyHead]
            replyHead += 1
            // Also when the queue never runs empty: a peer that keeps one reply waiting must not make it grow.
            if replyHead == replies.count || replyHead >= configuration.maximumReplyCount {
                replies.removeFirst(replyHead)
                replyHead = 0
            }
            counters.transmittedPackets += 1
            return reply
        }
        while let slot = controlQueue.popFirst() {
            connections[slot].isQueued = false
            guard let header = takeControl(slot) else { continue }
            if !connections[slot].pending.isEmpty { enqueue(slot, []) }
            counters.transmittedPackets += 1
            return header
        }
        return nil
    }

    /// Payload bytes that ``nextPacket(_:offering:capacity:)`` could send now, over all packets. When there are none,
    /// the connection waits for credit: see ``nextWritable()``.
    public mutating func sendableByteCount(_ id: ConnectionID) -> Int {
        guard let slot = slot(id), canSend(slot) else { return 0 }
        guard packetAllowance(slot) > 0 else {
            waitForCredit(slot)
            return 0
        }
        let free = connections[slot].credit.peerFreeByteCount
        guard free >= minimumByteCount(slot) else {
            waitForCredit(slot)
            return 0
        }
        return free
    }

    /// Whether `byteCount` bytes in `packetCount` packets may be sent now. Otherwise the connection waits until they
    /// may: see ``nextWritable()``.
    public mutating func hasCredit(_ id: ConnectionID, byteCount: Int, packetCount: Int) -> Bool {
        guard let slot = slot(id), canSend(slot) else { return false }
        connections[slot].awaitedByteCount = byteCount
        connections[slot].awaitedPacketCount = packetCount
        guard !hasAwaitedCredit(slot) else {
            connections[slot].awaitedByteCount = 0
            connections[slot].awaitedPacketCount = 1
            return true
        }
        waitForCredit(slot)
        return false
    }

    /// Ends the record under way unfinished. The peer discards what it has of it when the next one begins, so only a
    /// framing that marks beginnings has this.
    public mutating func abandonRecord(_ id: ConnectionID) {
        guard let slot = slot(id) else { return }
        connections[slot].sender.abandon()
    }

    /// Packets that may be sent before the peer has read earlier ones.
    public func sendablePacketCount(_ id: ConnectionID) -> Int {
        guard let slot = slot(id), canSend(slot) else { return 0 }
        return packetAllowance(slot)
    }

    /// The largest record that the peer can take; 2^32 - 1 when records flow through its buffer.
    public func maximumRecordByteCount(_ id: ConnectionID) -> Int {
        guard let slot = slot(id) else { return 0 }
        return configuration.framing == .rfcV5
            ? Int(UInt32.max) : Int(connections[slot].credit.peerBufferAllocation)
    }

    /// Starts a record; ``nextPacket(_:offering:capacity:)`` then gives its packets.
    /// - Throws: ``SocketError/messageTooLong`` when the peer can never hold it, ``SocketError/brokenPipe`` after a
    ///   shutdown, ``SocketError/notConnected``.
    public mutating func beginRecord(
        _ id: ConnectionID, byteCount: Int, endOfRecord: Bool
    ) throws(SocketError) {
        guard let slot = slot(id), connections[slot].state == .established else { throw .notConnected }
        guard canSend(slot) else { throw .brokenPipe }
        guard byteCount <= maximumRecordByteCount(id) else { throw .messageTooLong }
        guard byteCount > 0 || configuration.framing == .rfcV5 else { return }
        connections[slot].sender.begin(byteCount: byteCount, endOfRecord: endOfRecord)
    }

    /// Whether a record has been started and not all its packets were taken.
    public func isSendingRecord(_ id: ConnectionID) -> Bool {
        guard let slot = slot(id) else { return false }
        return connections[slot].sender.isSending
    }

    /// The next packet with payload, of at most `capacity` bytes: of a stream, from `offering` bytes that the
    /// application has; of the record that was started. Nil when there is nothing, or no credit: then the connection
    /// waits for it.
    public mutating func nextPacket(_ id: ConnectionID, offering: Int, capacity: Int) -> OutgoingPacket? {
        guard let slot = slot(id), canSend(slot) else { return nil }
        let isRecord = connections[slot].type == .seqpacket
        guard isRecord ? connections[slot].sender.isSending : offering > 0 else { return nil }
        let credit = packetAllowance(slot) > 0 ? connections[slot].credit.peerFreeByteCount : 0
        let limit = min(credit, capacity, PacketHeader.maximumPayloadByteCount)
        let fragment: RecordFragment?
        if isRecord {
            fragment = connections[slot].sender.next(limit: limit)
        } else {
            let byteCount = min(limit, offering)
            fragment =
                byteCount == 0
                ? nil
                : RecordFragment(
                    operation: .readWrite, flags: [], payload: .application(byteCount), byteCount: byteCount)
        }
        guard let fragment else {
            if capacity > credit { waitForCredit(slot) }
            return nil
        }
        connections[slot].credit.transmit(fragment.byteCount)
        let unreadLimit = packetLimit(slot)
        connections[slot].unacknowledged.add(
            transmittedCount: connections[slot].credit.transmittedCount, limit: unreadLimit)
        // The peer tells by itself when it has read many bytes, not when it has read many packets. Asked half-way, it
        // answers while the others go. What it had not read by then it is asked for again at the limit.
        if connections[slot].unacknowledged.count == unreadLimit / 2 { enqueue(slot, .creditRequest) }
        counters.transmittedPackets += 1
        counters.transmittedBytes += fragment.byteCount
        var header = header(slot, fragment.operation, flags: fragment.flags.rawValue)
        header.payloadByteCount = UInt32(truncatingIfNeeded: fragment.byteCount)
        return OutgoingPacket(header: header, payload: fragment.payload)
    }

    /// A connection that had waited for credit and may send again; nil when there is none. Call until nil.
    public mutating func nextWritable() -> ConnectionID? {
        while let slot = writableQueue.popFirst() {
            connections[slot].isWritable = false
            if canSend(slot) { return id(slot) }
        }
        return nil
    }

    // MARK: Parts

    func canSend(_ slot: Int) -> Bool {
        connections[slot].state == .established && !connections[slot].localShutdown.contains(.send)
            && !connections[slot].peerShutdown.contains(.receive)
    }

    private func packetLimit(_ slot: Int) -> Int {
        guard configuration.limitsUnreadPackets else { return .max }
        return UnacknowledgedPackets.limit(peerBufferAllocation: connections[slot].credit.peerBufferAllocation)
    }

    /// Packets that may be sent. One at least while all that is out belongs to the record under way: a receiver that
    /// takes records as a whole reads none of it before the rest has come, and to hold that back would be for ever.
    func packetAllowance(_ slot: Int) -> Int {
        let free = packetLimit(slot) - connections[slot].unacknowledged.count
        guard free <= 0 else { return free }
        let held = connections[slot].type == .seqpacket ? connections[slot].sender.heldByteCount : 0
        return Int(connections[slot].credit.unacknowledgedByteCount) <= held ? 1 : 0
    }

    /// Whether what a waiting sender needs is there. With nothing unread at the peer more packets than the limit may
    /// go: see ``packetAllowance(_:)``.
    func hasAwaitedCredit(_ slot: Int) -> Bool {
        let needed = max(minimumByteCount(slot), connections[slot].awaitedByteCount)
        guard connections[slot].credit.peerFreeByteCount >= needed else { return false }
        let allowance = packetAllowance(slot)
        return allowance >= connections[slot].awaitedPacketCount
            || (allowance > 0 && connections[slot].credit.unacknowledgedByteCount == 0)
    }

    /// Credit without which nothing can be sent.
    func minimumByteCount(_ slot: Int) -> Int {
        connections[slot].type == .seqpacket ? connections[slot].sender.minimumByteCount : 1
    }

    private func isShortOfPackets(_ slot: Int) -> Bool {
        packetAllowance(slot) < connections[slot].awaitedPacketCount
    }

    /// Asks the peer again what it has read: see ``EndpointConfiguration/creditProbeNanoseconds``.
    mutating func probeCredit(_ slot: Int, now: Instant) {
        guard connections[slot].waitsForCredit, canSend(slot), isShortOfPackets(slot) else { return }
        enqueue(slot, .creditRequest)
        armCreditProbe(slot, now: now)
    }

    private mutating func armCreditProbe(_ slot: Int, now: Instant) {
        let deadline = now.advanced(byNanoseconds: configuration.creditProbeNanoseconds)
        // At the end of time it would run out at once, again and again.
        if deadline > now { timers.set(slot, deadline: deadline) }
    }

    private mutating func waitForCredit(_ slot: Int) {
        connections[slot].waitsForCredit = true
        if isShortOfPackets(slot), !timers.isSet(slot) { armCreditProbe(slot, now: latestInstant) }
        guard !connections[slot].hasRequestedCredit else { return }
        connections[slot].hasRequestedCredit = true
        enqueue(slot, .creditRequest)
    }

    private mutating func takeControl(_ slot: Int) -> PacketHeader? {
        var pending = connections[slot].pending
        defer { connections[slot].pending = pending }
        if pending.contains(.reset) {
            var header = header(slot, .reset)
            header.flags = 0
            pending = []
            connections[slot].pending = []
            free(slot)
            return header
        }
        if pending.remove(.request) != nil { return header(slot, .request) }
        if pending.remove(.response) != nil { return header(slot, .response) }
        if pending.remove(.shutdown) != nil {
            return header(slot, .shutdown, flags: connections[slot].localShutdown.rawValue)
        }
        if pending.contains(.creditUpdate) {
            // Data sent meanwhile may have told the peer already; a request is answered all the same.
            pending.remove(.creditUpdate)
            return header(slot, .creditUpdate)
        }
        if pending.remove(.creditRequest) != nil { return header(slot, .creditRequest) }
        return nil
    }

    private mutating func header(_ slot: Int, _ operation: Operation, flags: UInt32 = 0) -> PacketHeader {
        connections[slot].credit.advertise()
        let flow = connections[slot].flow
        return PacketHeader(
            sourceCID: UInt64(flow.localCID), destinationCID: UInt64(flow.peerCID),
            sourcePort: flow.localPort, destinationPort: flow.peerPort,
            type: connections[slot].type, operation: operation, flags: flags,
            bufferAllocation: connections[slot].credit.bufferAllocation,
            forwardedCount: connections[slot].credit.forwardedCount)
    }
}
