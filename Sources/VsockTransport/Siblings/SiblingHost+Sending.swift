// SPDX-License-Identifier: Apache-2.0
//
// From siblings to the guest. A packet is as large as the guest's buffer, its credit and what is there allow, whatever
// it was in the other guest; a record is begun when all of it is there, for a framing may have to name its length.

import VirtioQueue
import VsockCore
import VsockWire

extension SiblingHost {
    private enum Turn {
        /// Nothing more to do until something happens.
        case idle
        /// There is more.
        case more
        /// The guest has no buffers.
        case starved
    }

    func transmit(into buffers: GuestBuffers) throws(VirtqueueError) -> Bool {
        defer { deliver() }
        retryDeferred()
        if try buffers.transmitControl(of: &endpoint) { return true }
        while let id = endpoint.nextWritable() {
            if let socket = socket(id) { enqueue(socket) }
        }
        for _ in 0..<readyQueue.count {
            guard let slot = readyQueue.popFirst() else { break }
            guard let socket = sockets[slot] else { continue }
            socket.isQueued = false
            switch try takeTurn(socket, buffers) {
            case .idle: break
            case .more: enqueue(socket)
            case .starved:
                enqueue(socket)
                return true
            }
            if try buffers.transmitControl(of: &endpoint) { return true }
        }
        return false
    }

    private func takeTurn(_ socket: SiblingSocket, _ buffers: GuestBuffers) throws(VirtqueueError) -> Turn {
        guard socket.phase == .open, let id = socket.id else { return .idle }
        let before = socket.queue.byteCount
        let recordsBefore = socket.queue.recordCount
        defer {
            let byteCount = before - socket.queue.byteCount
            let recordCount = recordsBefore - socket.queue.recordCount
            loop.carriedElsewhere(max(0, byteCount))
            if socket.phase == .open, byteCount > 0 || recordCount > 0 {
                post(.consumed(byteCount: byteCount, recordCount: recordCount), from: socket)
                queueDrained(socket)
            }
        }
        var budget = HybridHost.turnByteCount
        while budget > 0 {
            let left = socket.queue.byteCount
            if socket.type == .seqpacket, !endpoint.isSendingRecord(id) {
                guard beginRecord(socket, id) else { return .idle }
                continue
            }
            let wanted = socket.type == .stream ? socket.queue.byteCount : max(1, socket.unsentOfRecord)
            guard wanted > 0 else { return .idle }
            let sendable = endpoint.sendableByteCount(id)
            guard sendable > 0 else { return .idle }
            guard
                try buffers.reserve(
                    byteCount: min(wanted, sendable), slotLimit: endpoint.sendablePacketCount(id)) != nil
            else { return .starved }
            defer { buffers.release() }
            while let capacity = buffers.nextCapacity {
                guard let packet = endpoint.nextPacket(id, offering: socket.queue.byteCount, capacity: capacity) else {
                    break
                }
                commit(packet, socket, buffers)
            }
            if socket.type == .seqpacket, !endpoint.isSendingRecord(id) { socket.queue.removeFirstRecord() }
            // Empty records count, too, lest they keep the others waiting.
            budget -= max(64, left - socket.queue.byteCount)
        }
        return .more
    }

    /// Begins the next record; false when there is none, or the connection is over.
    private func beginRecord(_ socket: SiblingSocket, _ id: ConnectionID) -> Bool {
        while let record = socket.queue.nextRecord, record.byteCount == 0,
            endpoint.configuration.framing == .standard
        {
            // The standard framing has no empty records.
            counters.emptyRecords += 1
            socket.queue.removeFirstRecord()
        }
        guard let record = socket.queue.nextRecord else { return false }
        do throws(SocketError) {
            try endpoint.beginRecord(id, byteCount: record.byteCount, endOfRecord: record.hasEndOfRecordMark)
        } catch {
            abort(socket, "a record of \(record.byteCount) bytes cannot be sent to the guest: \(error.name)")
            return false
        }
        socket.unsentOfRecord = record.byteCount
        return true
    }

    private func commit(_ packet: OutgoingPacket, _ socket: SiblingSocket, _ buffers: GuestBuffers) {
        switch packet.payload {
        case .none:
            break
        case .application(let count):
            var offset = 0
            while offset < count {
                let piece = socket.queue.firstPiece.prefix(count - offset)
                buffers.fill(UnsafeRawBufferPointer(rebasing: piece), at: offset)
                offset += piece.count
                socket.queue.removeFirst(piece.count)
            }
            socket.unsentOfRecord -= count
        case .marker(let marker):
            withUnsafeTemporaryAllocation(byteCount: SequenceHeader.byteCount, alignment: 8) { area in
                marker.write(to: area)
                buffers.fill(UnsafeRawBufferPointer(area), at: 0)
            }
        }
        buffers.commit(packet.header)
    }

    // MARK: Ends

    /// The guest takes no more.
    func discardQueue(_ socket: SiblingSocket) {
        socket.isDiscarding = true
        let (byteCount, recordCount) = socket.queue.discardComplete()
        guard byteCount > 0 || recordCount > 0 else { return }
        post(.consumed(byteCount: byteCount, recordCount: recordCount), from: socket)
    }

    /// What must wait until nothing is left for the guest.
    func queueDrained(_ socket: SiblingSocket) {
        guard socket.phase == .open, let id = socket.id, socket.peerShutdown.contains(.send),
            socket.queue.recordCount == 0, socket.queue.byteCount == socket.queue.openRecordByteCount
        else { return }
        guard socket.peerShutdown == .both else { return endpoint.shutdown(id, .send) }
        endpoint.close(id, now: loop.now)
        post(.closed, from: socket)
        forget(socket)
    }
}
