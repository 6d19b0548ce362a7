// SPDX-License-Identifier: Apache-2.0
//
// The ends of sockets: the table is at the top of HostSocket.

import Logging
import VirtioQueue
import VsockCore
import VsockSystem
import VsockWire

extension HybridHost {
    /// The host program sends no more: it has shut its sending side, or closed.
    func hostEnded(_ socket: HostSocket) {
        socket.isReadClosed = true
        if isHungUp(socket) {
            endpoint.close(socket.id, now: loop.now)
            close(socket)
        } else {
            endpoint.shutdown(socket.id, .send)
        }
    }

    /// The guest gives up directions.
    func guestShutdown(_ socket: HostSocket, _ flags: ShutdownFlags) {
        if flags.contains(.receive) { stopReading(socket) }
        if flags.contains(.send) {
            socket.mustShutWriting = true
            backlogDrained(socket)
        }
    }

    /// The connection is gone for the guest; the host program still gets what it has not read.
    func guestClosed(_ socket: HostSocket) {
        guard socket.phase != .closed else { return }
        let slot = Int(socket.id.slot)
        if slot < sockets.count, sockets[slot] === socket { sockets[slot] = nil }
        guard socket.phase == .open, !socket.isWriteClosed, socket.backlog.hasCompleteData else {
            return close(socket)
        }
        socket.phase = .lingering
        stopReading(socket)
        socket.backlog.discardOpenRecord()
        // The oldest has had the most time.
        if lingering.count >= limits[.lingering] {
            counters.lingeringCutOff += 1
            limits.reached(.lingering, now: loop.now)
            close(lingering[0])
        }
        lingering.append(socket)
        if socket.isWritable { drainBacklog(socket) }
    }

    /// Ends a connection that cannot go on, at both ends.
    func abort(_ socket: HostSocket, _ reason: String) {
        log.warning("connection reset: \(reason)", metadata: ["socket": "\(socket.type)"])
        counters.aborted += 1
        endpoint.abort(socket.id)
        close(socket)
    }

    /// As ``abort(_:_:)``: what the guest has sent, or was to be sent, is not there.
    func abortForLostMemory(_ socket: HostSocket) { abort(socket, "the guest's memory is gone") }

    /// What must wait until nothing is left to write.
    func backlogDrained(_ socket: HostSocket) {
        guard socket.isWriteClosed || !socket.backlog.hasCompleteData else { return }
        switch socket.phase {
        case .lingering:
            close(socket)
        case .open where socket.mustShutWriting:
            discardBacklog(socket)
            if endpoint.snapshot(socket.id)?.peerShutdown == .both {
                endpoint.close(socket.id, now: loop.now)
                close(socket)
            } else if !socket.isWriteClosed {
                socket.isWriteClosed = true
                shutdown(socket, .send)
            }
        default:
            break
        }
    }

    /// Nothing more goes to the host program; what waits for it is thrown away and consumed.
    func stopWriting(_ socket: HostSocket) {
        socket.isWriteClosed = true
        discardBacklog(socket)
    }

    /// Nothing more comes from the host program: its sends fail with EPIPE.
    private func stopReading(_ socket: HostSocket) {
        guard !socket.isReadClosed else { return }
        socket.isReadClosed = true
        socket.discardStaged()
        shutdown(socket, .receive)
    }

    private func discardBacklog(_ socket: HostSocket) {
        let count = socket.backlog.unconsumedByteCount
        socket.backlog.removeAll()
        consume(socket, byteCount: count)
    }

    /// Closes the descriptor. What the host program has sent and nobody wants is read first: closing with unread
    /// data would show it ECONNRESET instead of what it has yet to read.
    func close(_ socket: HostSocket) {
        guard socket.phase != .closed else { return }
        if gatheringSocket === socket {
            gatheringSocket = nil
            gathering.removeAll()
        }
        if socket.phase == .lingering { lingering.removeAll { $0 === socket } }
        socket.phase = .closed
        // Whoever is in the middle of this socket's data stops there.
        socket.isReadClosed = true
        socket.isWriteClosed = true
        socket.discardStaged()
        socket.backlog.removeAll()
        let slot = Int(socket.id.slot)
        if slot < sockets.count, sockets[slot] === socket { sockets[slot] = nil }
        if let watch = socket.watch { loop.unwatch(watch, socket.descriptor.rawValue) }
        socket.watch = nil
        shutdown(socket, .both)
        discardUnread(socket)
        listener?.resume()
    }

    private func shutdown(_ socket: HostSocket, _ direction: SocketOptions.Direction) {
        // ENOTCONN: the host program has closed already.
        try? SocketOptions.shutdown(socket.descriptor.rawValue, direction)
    }

    private func discardUnread(_ socket: HostSocket) {
        // An empty record looks like the end. A program that has sent more of them unread gets ECONNRESET.
        var ends = socket.type == .stream ? 1 : 16
        withUnsafeTemporaryAllocation(byteCount: 4096, alignment: 16) { buffer in
            // Bounded by the socket's buffers: after the shutdown nothing is added.
            while ends > 0, case .count(let count) = DescriptorIO.receive(socket.descriptor.rawValue, into: buffer) {
                if count == 0 { ends -= 1 }
            }
        }
    }
}
