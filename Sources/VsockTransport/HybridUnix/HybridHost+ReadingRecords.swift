// SPDX-License-Identifier: Apache-2.0
//
// Records of host programs. Small ones come many at a time: one recvmmsg(2) puts each into a buffer of the guest, and
// behind every buffer stands a piece of the scratch area that takes the rest of a record which is larger:
//
//      message 0: | guest's buffer 0 | scratch 0 |      message 1: | guest's buffer 1 | scratch 1 |   ...
//
// A record that does not fit displaces those behind it: what is left of it and they are staged, which copies them, and
// the buffers are put back. Large records come one at a time, over as many buffers as they need.
//
// A staged record goes before anything else of its socket. What is staged is bounded by one call. A record that only
// credit is missing for stays in the socket until the guest has read, instead of being staged.

import Logging
import VirtioQueue
import VsockCore
import VsockSystem
import VsockWire

extension HybridHost {
    /// Records of one call. More would save little, and what they displace at worst is bounded by it.
    static let recordBatchLimit = 32

    func readRecords(_ socket: HostSocket, _ buffers: GuestBuffers) throws(VirtqueueError) -> Turn {
        let sendable = endpoint.sendableByteCount(socket.id)
        guard sendable > 0 else { return .idle }
        let limit = min(endpoint.maximumRecordByteCount(socket.id), Self.maximumRecordByteCount)
        guard hasCreditForNext(socket, sendable: sendable, limit: limit) else { return .idle }
        hasScratch = true
        // Only as many as there is likely credit for: others would be staged.
        let count = min(
            socket.expectedRecordCount, sendable / socket.expectedByteCount, scratch.count / (limit + 1),
            endpoint.sendablePacketCount(socket.id))
        return count > 1
            ? try readBatch(socket, buffers, count: count, limit: limit)
            : try readRecord(socket, buffers, sendable: sendable, limit: limit)
    }

    /// False when the connection waits for the credit of its next record. A guest tells of the space that became free
    /// once less than a quarter of its buffer is left in its view, so larger records are not waited for.
    private func hasCreditForNext(_ socket: HostSocket, sendable: Int, limit: Int) -> Bool {
        let quarter = limit / 4
        guard endpoint.configuration.framing == .standard, sendable < min(socket.expectedByteCount, quarter),
            case .message(let byteCount, _) = DescriptorIO.receiveMessage(
                socket.descriptor.rawValue, into: UnsafeMutableRawBufferPointer(start: nil, count: 0),
                flags: [.peek, .truncated]),
            byteCount <= quarter
        else { return true }
        return endpoint.hasCredit(socket.id, byteCount: byteCount, packetCount: 1)
    }

    // MARK: Several

    private func readBatch(
        _ socket: HostSocket, _ buffers: GuestBuffers, count: Int, limit: Int
    ) throws(VirtqueueError) -> Turn {
        guard let count = try buffers.reserve(recordCount: count, overflow: scratch, overflowByteCount: limit + 1)
        else { return .starved }
        recordBatch.removeAll()
        for index in 0..<count {
            let areas = buffers.recordAreas(at: index)
            let isAdded = buffers.segments.withVectors { base, _ in
                recordBatch.append(base + areas.lowerBound, count: areas.count)
            }
            precondition(isAdded, "a batch has room for as many records as are read at once")
        }
        switch recordBatch.receive(socket.descriptor.rawValue) {
        case .count(let received):
            let turn = sendBatch(socket, buffers, received: received, limit: limit)
            buffers.release()
            // Fewer than wanted: the socket is empty, or an error is left for the next call.
            if received < count, !socket.sawReadHangUp { socket.isReadable = false }
            return turn
        case .wouldBlock: return nothingRead(socket, buffers, nil)
        case .failed(let errno): return nothingRead(socket, buffers, errno)
        }
    }

    /// Sends the first records of the batch in place; from the first on that does not fill one slot, they are staged.
    private func sendBatch(_ socket: HostSocket, _ buffers: GuestBuffers, received: Int, limit: Int) -> Turn {
        let slotByteCount = buffers.nextCapacity ?? 0
        var largest = 0
        var emptyCount = 0
        for index in 0..<received {
            let byteCount = recordBatch.byteCount(at: index)
            let flags = recordBatch.flags(at: index)
            guard byteCount > 0 else {
                emptyCount += 1
                continue
            }
            guard isCarried(socket, byteCount: byteCount, flags, limit: limit) else { return .idle }
            largest = max(largest, byteCount)
            // An empty record leaves its slot unused, too. What follows one that is staged waits for it.
            let isInPlace = emptyCount == 0 && !socket.staged.hasRecord
            if !isInPlace {
                stage(socket, buffers, record: index, byteCount: byteCount, from: 0)
            } else if !sendInPlace(socket, buffers, record: index, byteCount: byteCount, flags) {
                return .idle
            }
        }
        // With room for one more than were found, the read tells that there are no others.
        let next = received == recordBatch.count ? received * 2 : received + 1
        socket.expectedRecordCount = largest > slotByteCount ? 1 : min(Self.recordBatchLimit, next)
        // Whatever fitted, the read has told how large the records are.
        adapt(socket, record: largest)
        if emptyCount > 0, recordBatch.byteCount(at: received - 1) == 0, !socket.staged.hasRecord {
            return emptyRecordsOrEnd(socket, count: emptyCount, [])
        }
        counters.emptyRecords += emptyCount
        return .more
    }

    /// Sends a record from the slot that it lies in, and stages what does not fit; false when the connection cannot.
    private func sendInPlace(
        _ socket: HostSocket, _ buffers: GuestBuffers, record index: Int, byteCount: Int, _ flags: MessageFlags
    ) -> Bool {
        guard begin(socket, byteCount: byteCount, flags) else { return false }
        guard let capacity = buffers.nextCapacity,
            let packet = endpoint.nextPacket(socket.id, offering: 0, capacity: capacity)
        else {
            // No credit.
            stage(socket, buffers, record: index, byteCount: byteCount, from: 0)
            return true
        }
        let sent = Int(packet.header.payloadByteCount)
        if sent < byteCount { stage(socket, buffers, record: index, byteCount: byteCount, from: sent) }
        buffers.commit(packet.header)
        return true
    }

    /// Copies a record of the batch, from one of its bytes on.
    private func stage(
        _ socket: HostSocket, _ buffers: GuestBuffers, record index: Int, byteCount: Int, from start: Int
    ) {
        var skip = start
        var left = byteCount - start
        for area in buffers.recordAreas(at: index) where left > 0 {
            let segment = buffers.segments[area]
            guard skip < segment.count else {
                skip -= segment.count
                continue
            }
            let bytes = UnsafeRawBufferPointer(start: segment.base + skip, count: min(left, segment.count - skip))
            socket.staged.append(bytes, isRecord: true)
            left -= bytes.count
            skip = 0
        }
        socket.staged.endRecord(consumedByteCount: 0)
    }

    // MARK: One

    private func readRecord(
        _ socket: HostSocket, _ buffers: GuestBuffers, sendable: Int, limit: Int
    ) throws(VirtqueueError) -> Turn {
        guard let room = try reserve(buffers, socket, sendable) else { return .starved }
        let slotByteCount = buffers.nextCapacity ?? 0
        // Markers need slots of their own, so such records are staged as a whole.
        let direct = endpoint.configuration.framing == .standard ? min(room, sendable) : 0
        buffers.limitSegments(to: direct)
        if let base = scratch.baseAddress {
            buffers.appendSegment(MemorySegment(base: base, count: max(0, limit - direct) + 1))
        }
        let result = buffers.segments.withVectors {
            DescriptorIO.receiveMessage(socket.descriptor.rawValue, into: $0, count: $1)
        }
        switch result {
        case .message(let count, let flags) where count > 0:
            if direct > 0, count <= slotByteCount { socket.expectedRecordCount = 2 }
            return sendRecord(socket, buffers, byteCount: count, flags: flags, direct: direct, limit: limit)
        case .message(_, let flags):
            buffers.release()
            return emptyRecordsOrEnd(socket, count: 1, flags)
        case .wouldBlock: return nothingRead(socket, buffers, nil)
        case .failed(let errno): return nothingRead(socket, buffers, errno)
        }
    }

    private func sendRecord(
        _ socket: HostSocket, _ buffers: GuestBuffers, byteCount: Int, flags: MessageFlags, direct: Int, limit: Int
    ) -> Turn {
        guard isCarried(socket, byteCount: byteCount, flags, limit: limit), begin(socket, byteCount: byteCount, flags)
        else {
            buffers.release()
            return .idle
        }
        commit(socket, buffers, byteCount: min(byteCount, direct))
        buffers.release()
        adapt(socket, record: byteCount)
        guard byteCount > direct, let base = scratch.baseAddress else { return .more }
        socket.staged.append(UnsafeRawBufferPointer(start: base, count: byteCount - direct), isRecord: true)
        socket.staged.endRecord(consumedByteCount: 0)
        return .more
    }

    // MARK: Staged

    /// Sends what is left of records that have been read.
    func sendStaged(_ socket: HostSocket, _ buffers: GuestBuffers) throws(VirtqueueError) -> Turn {
        while socket.staged.hasRecord {
            let count = socket.staged.firstRecordByteCount
            guard endpoint.isSendingRecord(socket.id) || begin(socket, byteCount: count, []) else { return .idle }
            while endpoint.isSendingRecord(socket.id) {
                guard
                    try buffers.reserve(
                        byteCount: max(1, count - socket.stagedOffset), slotLimit: GuestBuffers.slotLimit) != nil
                else { return .starved }
                let isBlocked = sendStagedPackets(socket, buffers)
                buffers.release()
                if isBlocked { return .idle }
            }
            _ = socket.staged.removeFirstRecord()
            socket.stagedOffset = 0
        }
        return .more
    }

    /// Fills the reserved slots from the first staged record; true when credit is missing.
    private func sendStagedPackets(_ socket: HostSocket, _ buffers: GuestBuffers) -> Bool {
        while let capacity = buffers.nextCapacity, endpoint.isSendingRecord(socket.id) {
            guard let packet = endpoint.nextPacket(socket.id, offering: 0, capacity: capacity) else { return true }
            socket.stagedOffset += commit(packet, buffers, from: socket.staged.bytes, offset: socket.stagedOffset)
        }
        return false
    }

    private func commit(
        _ packet: OutgoingPacket, _ buffers: GuestBuffers, from bytes: UnsafeRawBufferPointer, offset: Int
    ) -> Int {
        switch packet.payload {
        case .none:
            buffers.commit(packet.header)
            return 0
        case .application(let count):
            buffers.commit(
                packet.header, payload: UnsafeRawBufferPointer(rebasing: bytes[offset..<(offset + count)]))
            return count
        case .marker(let marker):
            withUnsafeTemporaryAllocation(byteCount: SequenceHeader.byteCount, alignment: 8) { area in
                marker.write(to: area)
                buffers.commit(packet.header, payload: UnsafeRawBufferPointer(area))
            }
            return 0
        }
    }

    // MARK: Parts

    /// The next record is likely to be as large. If it is larger, its rest has to be copied; so there is some room to grow.
    private func adapt(_ socket: HostSocket, record byteCount: Int) {
        let expected = socket.expectedByteCount
        socket.expectedByteCount =
            byteCount > expected ? byteCount + byteCount / 4 : max(1024, (expected + byteCount) / 2)
    }

    /// Whether the guest can take a record of this size; otherwise the connection is reset.
    private func isCarried(_ socket: HostSocket, byteCount: Int, _ flags: MessageFlags, limit: Int) -> Bool {
        guard byteCount > limit || flags.contains(.truncated) else { return true }
        abort(socket, "a record of the host program is larger than the guest's buffer of \(limit) bytes")
        return false
    }

    /// Starts a record; false when the connection takes none, which ends it.
    private func begin(_ socket: HostSocket, byteCount: Int, _ flags: MessageFlags) -> Bool {
        do throws(SocketError) {
            try endpoint.beginRecord(socket.id, byteCount: byteCount, endOfRecord: flags.contains(.endOfRecord))
            return true
        } catch {
            abort(socket, "a record cannot be sent: \(error.name)")
            return false
        }
    }

    /// AF_UNIX reports an empty record and the end of file alike. At the end the socket is hung up and holds nothing.
    private func emptyRecordsOrEnd(_ socket: HostSocket, count: Int, _ flags: MessageFlags) -> Turn {
        if !socket.sawReadHangUp { _ = isHungUp(socket) }
        if socket.sawReadHangUp, (try? SocketOptions.unreadByteCount(socket.descriptor.rawValue)) ?? 0 == 0 {
            hostEnded(socket)
            return .idle
        }
        counters.emptyRecords += count
        guard endpoint.configuration.framing == .rfcV5 else {
            log.debug("an empty record was not sent: the standard framing has none")
            return .more
        }
        guard begin(socket, byteCount: 0, flags) else { return .idle }
        socket.staged.endRecord(consumedByteCount: 0)
        return .more
    }
}
