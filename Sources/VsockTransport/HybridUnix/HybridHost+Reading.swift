// SPDX-License-Identifier: Apache-2.0
//
// From host programs to the guest: one recvmsg(2) fills many of the guest's buffers in place.
//
// Sockets with data take turns. A socket leaves the queue when it has nothing more to read or no credit; it comes
// back on the next edge of its descriptor, or when the guest returns credit. When the guest has no buffers, the queue
// stays as it is until it posts some.

import Logging
import VirtioQueue
import VsockCore
import VsockSystem
import VsockWire

extension HybridHost {
    /// What became of a socket's turn.
    private enum Turn {
        /// Nothing more to do until something happens.
        case idle
        /// There is more.
        case more
        /// The guest has no buffers.
        case starved
    }

    /// Whether the guest's buffers are needed.
    var hasOutput: Bool { endpoint.hasControlPackets || !readyQueue.isEmpty }

    /// Fills the guest's buffers; true when it ran out of them.
    func transmit(into buffers: GuestBuffers) throws(VirtqueueError) -> Bool {
        if try buffers.transmitControl(of: &endpoint) { return true }
        requeueWritable()
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

    /// Connections that have got credit have their turn again.
    func requeueWritable() {
        while let id = endpoint.nextWritable() {
            if let socket = socket(id) { enqueue(socket) }
        }
    }

    private func takeTurn(_ socket: HostSocket, _ buffers: GuestBuffers) throws(VirtqueueError) -> Turn {
        guard socket.phase == .open else { return .idle }
        var budget = Self.turnByteCount
        while budget > 0 {
            let before = endpoint.counters.transmittedBytes
            let turn: Turn
            if socket.staged != nil {
                turn = try sendStaged(socket, buffers)
            } else if !socket.isReadable || socket.isReadClosed {
                return .idle
            } else if socket.type == .stream {
                turn = try readStream(socket, buffers)
            } else {
                turn = try readRecord(socket, buffers)
            }
            guard turn == .more else { return turn }
            // A turn that carried nothing still counts, lest one socket's empty records keep the others waiting.
            budget -= max(64, endpoint.counters.transmittedBytes - before)
        }
        return .more
    }

    // MARK: Streams

    private func readStream(_ socket: HostSocket, _ buffers: GuestBuffers) throws(VirtqueueError) -> Turn {
        let sendable = min(endpoint.sendableByteCount(socket.id), Self.turnByteCount)
        guard sendable > 0 else { return .idle }
        guard let room = try reserve(buffers, socket, sendable) else { return .starved }
        let capacity = min(room, sendable)
        buffers.limitSegments(to: capacity)
        let result = buffers.segments.withVectors {
            DescriptorIO.receiveMessage(socket.descriptor.rawValue, into: $0, count: $1)
        }
        switch result {
        case .message(let count, let flags) where count > 0:
            commit(socket, buffers, byteCount: count)
            buffers.release()
            adapt(socket, read: count, capacity: capacity)
            // A short read means that the socket is empty, but for a message that ends early because it carries
            // descriptors (which are refused and closed).
            if count < capacity, !flags.contains(.controlTruncated), !socket.sawReadHangUp {
                socket.isReadable = false
                return .idle
            }
            return .more
        case .message:
            buffers.release()
            hostEnded(socket)
            return .idle
        case .wouldBlock:
            buffers.release()
            socket.isReadable = false
            return .idle
        case .failed(let errno):
            buffers.release()
            return readFailed(socket, errno)
        }
    }

    /// Sends `byteCount` bytes that lie in the reserved slots, from the first on.
    private func commit(_ socket: HostSocket, _ buffers: GuestBuffers, byteCount: Int) {
        var remaining = byteCount
        while remaining > 0, let capacity = buffers.nextCapacity {
            guard let packet = endpoint.nextPacket(socket.id, offering: remaining, capacity: capacity) else { break }
            buffers.commit(packet.header)
            remaining -= Int(packet.header.payloadByteCount)
        }
        precondition(remaining == 0, "more was read than the credit allows")
    }

    // MARK: Records

    private func readRecord(_ socket: HostSocket, _ buffers: GuestBuffers) throws(VirtqueueError) -> Turn {
        let sendable = endpoint.sendableByteCount(socket.id)
        guard sendable > 0 else { return .idle }
        guard let room = try reserve(buffers, socket, sendable) else { return .starved }
        // Markers need slots of their own, so such records are staged as a whole.
        let direct = endpoint.configuration.framing == .standard ? min(room, sendable) : 0
        buffers.limitSegments(to: direct)
        hasScratch = true
        let limit = min(endpoint.maximumRecordByteCount(socket.id), Self.maximumRecordByteCount)
        if let base = scratch.baseAddress {
            buffers.appendSegment(MemorySegment(base: base, count: max(0, limit - direct) + 1))
        }
        let result = buffers.segments.withVectors {
            DescriptorIO.receiveMessage(socket.descriptor.rawValue, into: $0, count: $1)
        }
        switch result {
        case .message(let count, let flags) where count > 0:
            return try sendRecord(socket, buffers, byteCount: count, flags: flags, direct: direct, limit: limit)
        case .message(_, let flags):
            buffers.release()
            return emptyRecordOrEnd(socket, flags)
        case .wouldBlock:
            buffers.release()
            socket.isReadable = false
            return .idle
        case .failed(let errno):
            buffers.release()
            return readFailed(socket, errno)
        }
    }

    private func sendRecord(
        _ socket: HostSocket, _ buffers: GuestBuffers, byteCount: Int, flags: MessageFlags, direct: Int, limit: Int
    ) throws(VirtqueueError) -> Turn {
        guard byteCount <= limit, !flags.contains(.truncated) else {
            buffers.release()
            abort(socket, "a record of the host program is larger than the guest's buffer of \(limit) bytes")
            return .idle
        }
        do throws(SocketError) {
            try endpoint.beginRecord(
                socket.id, byteCount: byteCount, endOfRecord: flags.contains(.endOfRecord))
        } catch {
            buffers.release()
            abort(socket, "a record cannot be sent: \(error.name)")
            return .idle
        }
        commit(socket, buffers, byteCount: min(byteCount, direct))
        buffers.release()
        adapt(socket, read: byteCount, capacity: direct)
        guard byteCount > direct, let base = scratch.baseAddress else { return .more }
        let rest = UnsafeRawBufferPointer(start: base, count: byteCount - direct)
        socket.staged = HostSocket.StagedRecord(copying: rest)
        return .more
    }

    /// Sends what is left of a record that has been read.
    private func sendStaged(_ socket: HostSocket, _ buffers: GuestBuffers) throws(VirtqueueError) -> Turn {
        while endpoint.isSendingRecord(socket.id), socket.staged != nil {
            let (bytes, offset, count) = stagedRest(socket)
            guard try buffers.reserve(byteCount: max(1, count - offset), slotLimit: GuestBuffers.slotLimit) != nil
            else { return .starved }
            var sent = offset
            var isBlocked = false
            while let capacity = buffers.nextCapacity, endpoint.isSendingRecord(socket.id) {
                guard let packet = endpoint.nextPacket(socket.id, offering: 0, capacity: capacity) else {
                    isBlocked = true
                    break
                }
                sent += commit(packet, buffers, from: bytes, offset: sent)
            }
            buffers.release()
            socket.staged?.offset = sent
            if isBlocked { return .idle }
        }
        socket.staged = nil
        return .more
    }

    private func stagedRest(_ socket: HostSocket) -> (UnsafeRawBufferPointer, Int, Int) {
        guard let bytes = socket.staged?.bytes, let offset = socket.staged?.offset,
            let count = socket.staged?.byteCount
        else { return (UnsafeRawBufferPointer(start: nil, count: 0), 0, 0) }
        return (UnsafeRawBufferPointer(bytes), offset, count)
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

    /// AF_UNIX reports an empty record and the end of file alike. At the end the socket is hung up and holds nothing.
    private func emptyRecordOrEnd(_ socket: HostSocket, _ flags: MessageFlags) -> Turn {
        if !socket.sawReadHangUp { _ = isHungUp(socket) }
        if socket.sawReadHangUp, (try? SocketOptions.unreadByteCount(socket.descriptor.rawValue)) ?? 0 == 0 {
            hostEnded(socket)
            return .idle
        }
        counters.emptyRecords += 1
        guard endpoint.configuration.framing == .rfcV5 else {
            log.debug("an empty record was not sent: the standard framing has none")
            return .more
        }
        do throws(SocketError) {
            try endpoint.beginRecord(socket.id, byteCount: 0, endOfRecord: flags.contains(.endOfRecord))
        } catch {
            return .idle
        }
        socket.staged = HostSocket.StagedRecord(copying: UnsafeRawBufferPointer(start: nil, count: 0))
        return .more
    }

    // MARK: Parts

    private func reserve(
        _ buffers: GuestBuffers, _ socket: HostSocket, _ sendable: Int
    ) throws(VirtqueueError) -> Int? {
        try buffers.reserve(
            byteCount: min(sendable, socket.expectedByteCount),
            slotLimit: endpoint.sendablePacketCount(socket.id))
    }

    private func adapt(_ socket: HostSocket, read count: Int, capacity: Int) {
        if count >= capacity {
            socket.expectedByteCount = min(Self.turnByteCount, max(count, socket.expectedByteCount) * 2)
        } else {
            socket.expectedByteCount = max(1024, (socket.expectedByteCount + count) / 2)
        }
    }

    private func readFailed(_ socket: HostSocket, _ errno: Errno) -> Turn {
        if errno == .connectionReset {
            // The host program has closed with unread data. The error is reported once; what it sent before is
            // still to be read.
            socket.sawReadHangUp = true
            return .more
        }
        log.debug("host socket failed", metadata: ["error": "\(errno)"])
        hostEnded(socket)
        return .idle
    }
}
