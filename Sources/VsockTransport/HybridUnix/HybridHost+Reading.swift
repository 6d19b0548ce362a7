// SPDX-License-Identifier: Apache-2.0
//
// From host programs to the guest: one system call fills many of the guest's buffers in place, recvmsg(2) with the bytes
// of a stream, recvmmsg(2) with records (+ReadingRecords).
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
    enum Turn {
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
        let end = endpoint.counters.transmittedBytes + Self.roundByteCount
        for _ in 0..<readyQueue.count where endpoint.counters.transmittedBytes < end {
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
            if socket.staged.hasRecord {
                turn = try sendStaged(socket, buffers)
            } else if !socket.isReadable || socket.isReadClosed {
                return .idle
            } else if socket.type == .stream {
                turn = try readStream(socket, buffers)
            } else {
                turn = try readRecords(socket, buffers)
            }
            let carried = endpoint.counters.transmittedBytes - before
            loop.carried(carried, through: socket.descriptor.rawValue)
            guard turn == .more else { return turn }
            // A turn that carried nothing still counts, lest one socket's empty records keep the others waiting.
            budget -= max(64, carried)
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
        case .wouldBlock: return nothingRead(socket, buffers, nil)
        case .failed(let errno): return nothingRead(socket, buffers, errno)
        }
    }

    /// Sends `byteCount` bytes that lie in the reserved slots, from the first on.
    func commit(_ socket: HostSocket, _ buffers: GuestBuffers, byteCount: Int) {
        var remaining = byteCount
        while remaining > 0, let capacity = buffers.nextCapacity {
            guard let packet = endpoint.nextPacket(socket.id, offering: remaining, capacity: capacity) else { break }
            buffers.commit(packet.header)
            remaining -= Int(packet.header.payloadByteCount)
        }
        precondition(remaining == 0, "more was read than the credit allows")
    }

    // MARK: Parts

    func reserve(
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

    /// A read found nothing, or failed.
    func nothingRead(_ socket: HostSocket, _ buffers: GuestBuffers, _ errno: Errno?) -> Turn {
        buffers.release()
        guard let errno else {
            socket.isReadable = false
            return .idle
        }
        switch errno {
        case .connectionReset:
            // The host program has closed with unread data. The error is reported once; what it sent before is
            // still to be read.
            socket.sawReadHangUp = true
            return .more
        case .badAddress:
            abortForLostMemory(socket)
        default:
            log.debug("host socket failed", metadata: ["error": "\(errno)"])
            hostEnded(socket)
        }
        return .idle
    }
}
