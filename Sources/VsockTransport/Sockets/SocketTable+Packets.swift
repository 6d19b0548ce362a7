// SPDX-License-Identifier: Apache-2.0
//
// Packets of a socket table, in and out. All of it is called with the lock.

import VirtioQueue
import VsockCore
import VsockWire

extension SocketTable {
    // MARK: Out

    /// Sends what the core owes the peer, wakes those who may send again, and shows the carrier's peer all of it.
    func pump() {
        guard let carrier else { return }
        repeat {
            while endpoint.hasControlPackets, carrier.capacity(wanting: 0) != nil,
                let header = endpoint.nextControlPacket()
            {
                commit(header, UnsafeRawBufferPointer(start: nil, count: 0), to: carrier)
            }
            while let id = endpoint.nextWritable() {
                guard let socket = socket(id) else { continue }
                socket.sendRemainder()
                socket.waits.signal(.writable)
            }
        } while endpoint.hasControlPackets && carrier.capacity(wanting: 0) != nil
        carrier.flush()
        tap?.batchEnded()
        armTimer()
        signalIfIdle()
    }

    /// Hands a packet to the carrier.
    func commit(_ header: PacketHeader, _ payload: UnsafeRawBufferPointer, to carrier: any PacketCarrier) {
        tap?.packet(header, payload, isOutgoing: true)
        carrier.commit(header, payload)
    }

    /// The carrier has room again.
    func roomFreed() {
        let waiting = roomWaiters
        roomWaiters.removeAll(keepingCapacity: true)
        for socket in waiting {
            socket.isWaitingForRoom = false
            socket.sendRemainder()
            socket.waits.signal(.writable)
        }
        pump()
    }

    /// A socket found no room.
    func waitForRoom(_ socket: TableSocket) {
        guard !socket.isWaitingForRoom else { return }
        socket.isWaitingForRoom = true
        roomWaiters.append(socket)
    }

    // MARK: In

    /// Takes a packet whose payload lies in one piece, valid during the call. `pump` follows after a batch.
    func deliver(_ header: PacketHeader, _ payload: UnsafeRawBufferPointer) {
        Self.withSegments(payload) { deliver(header, $0) }
    }

    /// Takes a packet whose payload lies in `segments`, valid during the call. `pump` follows after a batch.
    func deliver(_ header: PacketHeader, _ segments: UnsafeBufferPointer<MemorySegment>) {
        deliver(header, marker: SequenceHeader(header, payload: segments), segments)
    }

    /// As the other `deliver`, with the payload of a marker read.
    func deliver(_ header: PacketHeader, marker: SequenceHeader?, _ segments: UnsafeBufferPointer<MemorySegment>) {
        if let tap, !tapsOnlyOutgoing { tap.packet(header, segments, isOutgoing: false) }
        switch endpoint.receive(header, marker: marker, now: now) {
        case .handled, .dropped:
            break
        case .requested(let id):
            endpoint.refuse(id)
        case .accepted(let id):
            accepted(id, header)
        case .connected(let id):
            guard let socket = socket(id) else { return endpoint.abort(id) }
            socket.connected()
            joinDirectly(socket, header)
        case .connectFailed(let id, let error):
            socket(id)?.connectFailed(error)
        case .payload(let id, let verdict):
            if let socket = socket(id) { socket.deliver(verdict, segments) } else { endpoint.abort(id) }
        case .peerShutdown(let id, let flags):
            if let socket = socket(id) {
                socket.peerHasShut(flags)
            } else if flags == .both {
                endpoint.close(id, now: now)
            }
        case .reset(let id, let cause):
            guard let socket = socket(id) else { break }
            socket.resetByPeer(cause == .byPeer ? nil : .connectionReset)
        }
    }

    private func accepted(_ id: ConnectionID, _ header: PacketHeader) {
        guard let listener = ports[header.destinationPort], listener.state == .listening,
            let snapshot = endpoint.snapshot(id)
        else { return endpoint.abort(id) }
        let socket = TableSocket(self, snapshot.type, listener.settingsInForce.inherited)
        socket.becomeAccepted(
            port: snapshot.localPort,
            peer: VsockAddress(
                cid: VsockAddress.ContextID(rawValue: snapshot.peerCID),
                port: VsockAddress.Port(rawValue: snapshot.peerPort)))
        join(socket, id)
        socket.offerBuffer()
        listener.acceptQueue.append(socket)
        listener.waits.signal(.readable)
    }

    /// The payload as the one segment that it is, or none.
    static func withSegments(
        _ payload: UnsafeRawBufferPointer, _ body: (UnsafeBufferPointer<MemorySegment>) -> Void
    ) {
        guard let base = UnsafeMutableRawPointer(mutating: payload.baseAddress), !payload.isEmpty else {
            return body(UnsafeBufferPointer(start: nil, count: 0))
        }
        withUnsafePointer(to: MemorySegment(base: base, count: payload.count)) { segment in
            body(UnsafeBufferPointer(start: segment, count: 1))
        }
    }
}
