// SPDX-License-Identifier: Apache-2.0
//
// From the guest to its siblings. Payload of consecutive packets of one connection is gathered and copied into one
// parcel, with the ends of records in it.
//
// Bytes are consumed (their credit returned) when the other VM has passed them on. In a framing whose records may be
// larger than the buffer, a record that is not complete must be consumed earlier, because it is passed on as a whole:
// what exceeds half of the buffer is. What the other VM reports later is taken against that, record by record.

import Logging
import VirtioQueue
import VsockCore
import VsockSystem
import VsockWire

extension SiblingHost {
    func receive(
        _ header: PacketHeader, marker: SequenceHeader?, payload: Range<Int>, in segments: borrowing SegmentList
    ) {
        switch endpoint.receive(header, marker: marker, now: loop.now) {
        case .payload(let id, let verdict):
            guard let socket = socket(id), socket.phase == .open else { return endpoint.abort(id) }
            loop.carriedElsewhere(Int(header.payloadByteCount))
            take(socket, verdict, payload: payload, in: segments)
        case .handled:
            if header.operation == .creditUpdate { creditUpdated(header) }
        case .dropped(let reason):
            if reason == .limitReached { limits.reached(in: endpoint, now: loop.now) }
            log.trace("packet to a sibling dropped", metadata: ["reason": "\(reason)", "packet": "\(header)"])
        case .requested(let id):
            connectToSibling(id, header)
        case .accepted(let id):
            endpoint.abort(id)
        case .connected(let id):
            guard let socket = socket(id) else { return endpoint.abort(id) }
            socket.phase = .open
            socket.announcedRecordLimit = endpoint.maximumRecordByteCount(id)
            post(.accepted(recordLimit: socket.announcedRecordLimit), from: socket)
        case .connectFailed(let id, _):
            counters.refused += 1
            guard let socket = socket(id) else { return }
            post(.refused, from: socket)
            forget(socket)
        case .peerShutdown(let id, let flags):
            handOverGathered()
            guard let socket = socket(id) else { return }
            guestShutdown(socket, flags)
        case .reset(let id, let cause):
            handOverGathered()
            if cause != .byPeer {
                log.warning("connection to a sibling reset", metadata: ["cause": "\(cause)", "packet": "\(header)"])
            }
            guard let socket = socket(id) else { return }
            post(.closed, from: socket)
            forget(socket)
        }
    }

    /// The guest asks for a port of a sibling, which it may reach.
    private func connectToSibling(_ id: ConnectionID, _ header: PacketHeader) {
        guard let route = route(to: header.destinationCID) else { return endpoint.refuse(id) }
        guard failureCount < limits[.failedRequests] else { return endpoint.refuse(id) }
        guard route.waitingCount < limits[.siblingMessages] else {
            limits.reached(.siblingMessages, now: loop.now)
            return endpoint.refuse(id)
        }
        let near = SiblingSocket(type: header.type, phase: .requested)
        let far = SiblingSocket(type: header.type, phase: .connecting, peer: near)
        near.peer = far
        near.route = route
        near.announcedRecordLimit = endpoint.maximumRecordByteCount(id)
        register(near, id)
        post(
            .request(
                type: header.type,
                origin: VsockAddress(cid: guestCID, port: VsockAddress.Port(rawValue: header.sourcePort)),
                port: header.destinationPort, recordLimit: near.announcedRecordLimit),
            from: near)
    }

    /// The guest gives up directions.
    private func guestShutdown(_ socket: SiblingSocket, _ flags: ShutdownFlags) {
        if flags.contains(.receive) { discardQueue(socket) }
        post(.shutdown(flags), from: socket)
        queueDrained(socket)
    }

    /// The guest may have changed its buffer, and with it the largest record that it takes.
    private func creditUpdated(_ header: PacketHeader) {
        guard header.type == .seqpacket, let id = endpoint.connection(of: header), let socket = socket(id) else {
            return
        }
        let limit = endpoint.maximumRecordByteCount(id)
        guard limit != socket.announcedRecordLimit else { return }
        socket.announcedRecordLimit = limit
        post(.recordLimit(limit), from: socket)
    }

    // MARK: Payload

    private func take(
        _ socket: SiblingSocket, _ verdict: PayloadVerdict, payload: Range<Int>, in segments: borrowing SegmentList
    ) {
        if verdict.discardsUnfinishedRecord { discardOpenRecord(socket) }
        if gatheringSocket !== socket { handOverGathered() }
        gatheringSocket = socket
        if verdict.deliversPayload {
            for index in payload { gather(segments[index], for: socket) }
        }
        if verdict.endsRecord {
            gatheredEnds.append(
                RecordEnd(offset: gatheredByteCount, hasEndOfRecordMark: verdict.hasEndOfRecordMark))
        }
    }

    private func gather(_ segment: MemorySegment, for socket: SiblingSocket) {
        if !gathered.append(segment) {
            handOverGathered()
            // The half may have ended with that.
            gatheringSocket = socket
            _ = gathered.append(segment)
        }
        gatheredByteCount += segment.count
    }

    /// Hands over what was gathered; afterwards guest memory is no longer needed.
    func handOverGathered() {
        guard let socket = gatheringSocket, gatheredByteCount > 0 || !gatheredEnds.isEmpty else {
            return dropGathered()
        }
        let parcel = Parcel(capacity: gatheredByteCount, ends: gatheredEnds)
        for index in 0..<gathered.count {
            let segment = gathered[index]
            parcel.append(UnsafeRawBufferPointer(start: segment.base, count: segment.count))
        }
        dropGathered()
        guard socket.phase == .open else { return }
        guard !memoryLoss.hasHappened else { return abort(socket, "the guest's memory is gone") }
        post(.payload(parcel), from: socket)
        if socket.type == .seqpacket { countRecords(socket, parcel) }
    }

    func dropGathered() {
        gatheringSocket = nil
        gathered.removeAll()
        gatheredByteCount = 0
        gatheredEnds.removeAll(keepingCapacity: true)
    }

    private func countRecords(_ socket: SiblingSocket, _ parcel: Parcel) {
        var start = 0
        for end in parcel.ends {
            socket.bytesUnderWay.append(
                byteCount: socket.openRecordByteCount + end.offset - start,
                consumedByteCount: socket.consumedOfOpenRecord)
            socket.openRecordByteCount = 0
            socket.consumedOfOpenRecord = 0
            start = end.offset
        }
        socket.openRecordByteCount += parcel.byteCount - start
        socket.recordsUnderWay += parcel.ends.count
        guard socket.recordsUnderWay <= limits[.queuedRecords] else {
            limits.reached(.queuedRecords, now: loop.now)
            return abort(socket, "the sibling does not read so many records")
        }
        guard socket.openRecordByteCount <= HybridHost.maximumRecordByteCount else {
            return abort(socket, "a record is larger than \(HybridHost.maximumRecordByteCount) bytes")
        }
        if endpoint.configuration.framing.consumesUnfinishedRecords { consumeOpenRecord(socket) }
    }

    private func consumeOpenRecord(_ socket: SiblingSocket) {
        let held = socket.openRecordByteCount - socket.consumedOfOpenRecord
        let excess = held - Int(endpoint.configuration.bufferByteCount / 2)
        guard excess > 0, let id = socket.id else { return }
        socket.consumedOfOpenRecord += excess
        endpoint.consume(id, byteCount: excess)
    }

    private func discardOpenRecord(_ socket: SiblingSocket) {
        handOverGathered()
        guard socket.phase == .open, let id = socket.id else { return }
        endpoint.consume(id, byteCount: socket.openRecordByteCount - socket.consumedOfOpenRecord)
        socket.openRecordByteCount = 0
        socket.consumedOfOpenRecord = 0
        post(.discardOpenRecord, from: socket)
    }

    /// The other VM has passed bytes of this guest on.
    func siblingConsumed(_ socket: SiblingSocket, byteCount: Int, recordCount: Int) {
        socket.recordsUnderWay -= recordCount
        let early = socket.type == .seqpacket ? socket.bytesUnderWay.removeFirst(byteCount) : 0
        if let id = socket.id { endpoint.consume(id, byteCount: byteCount - early) }
    }
}
