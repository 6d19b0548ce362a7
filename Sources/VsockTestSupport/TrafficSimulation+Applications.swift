// SPDX-License-Identifier: Apache-2.0
//
// What the applications of a ``TrafficSimulation`` do: read, send, end, and compare notes.

import VsockCore
import VsockWire

extension TrafficSimulation {
    // MARK: What the endpoints say

    mutating func note(_ side: Side, _ delivery: Delivery) {
        switch delivery.reception {
        case .handled, .dropped: break
        case .accepted(let id):
            guard let snapshot = pair[side].snapshot(id) else { return }
            let index = Int(snapshot.peerPort) - 50_000
            pair[side].takeAccepted(port: snapshot.localPort)
            addSocket(side, index, id)
            sockets[side.rawValue][index]?.isConnected = true
        case .connected(let id):
            update(side, id) { $0.isConnected = true }
        case .payload(let id, let verdict):
            update(side, id) { $0.receive(delivery.payload, verdict) }
        case .peerShutdown(let id, let flags):
            update(side, id) { $0.peerShutdown = flags }
        case .reset(let id, let cause):
            guard let index = conversations[side.rawValue][id] else { return }
            sockets[side.rawValue][index]?.isGone = true
            if cause != .byPeer || options.conversations[index].ending == .orderly {
                violations.append("conversation \(index) was reset at the \(side): \(cause)")
            }
        case .connectFailed(let id, _):
            guard let index = conversations[side.rawValue][id] else { return }
            sockets[side.rawValue][index]?.isGone = true
            if options.conversations[index].ending == .orderly {
                violations.append("conversation \(index) was refused")
            }
        case .requested:
            violations.append("a request for a port with a listener was not accepted")
        }
    }

    mutating func noteExpiry(_ side: Side, _ expiry: Expiry) { violations.append("\(expiry) at the \(side)") }

    private mutating func update(_ side: Side, _ id: ConnectionID, _ body: (inout SimulatedSocket) -> Void) {
        guard let index = conversations[side.rawValue][id], var socket = sockets[side.rawValue][index] else {
            violations.append("the \(side) knows no connection \(id)")
            return
        }
        sockets[side.rawValue][index] = nil
        body(&socket)
        sockets[side.rawValue][index] = socket
    }

    // MARK: What they do

    mutating func read(_ side: Side, _ index: Int) -> Bool {
        guard let socket = sockets[side.rawValue][index], socket.consumableByteCount > 0,
            random.chance(percent: options.readerDiligence)
        else { return false }
        let all = socket.consumableByteCount
        let byteCount = options.readsAll ? all : random.within(1...all)
        sockets[side.rawValue][index]?.consumableByteCount -= byteCount
        pair[side].consume(socket.id, byteCount: byteCount)
        return true
    }

    mutating func finish(_ side: Side, _ index: Int) -> Bool {
        guard let socket = sockets[side.rawValue][index] else { return false }
        let conversation = options.conversations[index]
        let instant = pair.now
        if conversation.ending != .orderly, conversation.ender == side, roundCount >= conversation.endingRound {
            if conversation.ending == .earlyClose {
                pair[side].close(socket.id, now: instant)
            } else {
                pair[side].abort(socket.id)
            }
            sockets[side.rawValue][index]?.isGone = true
            return true
        }
        let isRead = socket.consumableByteCount == 0 && socket.heldByteCount == 0
        let mayClose = socket.hasShutDown ? socket.peerShutdown.contains(.send) : socket.peerShutdown == .both
        if mayClose, isRead || socket.peerShutdown == .both && socket.consumableByteCount == 0 {
            pair[side].close(socket.id, now: instant)
            sockets[side.rawValue][index]?.isGone = true
            return true
        }
        guard socket.hasSentAll, !socket.hasShutDown else { return false }
        pair[side].shutdown(socket.id, .send)
        sockets[side.rawValue][index]?.hasShutDown = true
        return true
    }

    /// What a carrier does when it has room: all control packets, then a few with payload.
    mutating func fetch(_ side: Side) -> Bool {
        var hasFetched = false
        while let id = pair[side].nextWritable() {
            if let index = conversations[side.rawValue][id] { sockets[side.rawValue][index]?.isBlocked = false }
        }
        while pair.fetchControl(side, latency: latency()) != nil { hasFetched = true }
        for index in sockets[side.rawValue].indices {
            for _ in 0..<random.within(1...3) {
                guard let socket = sockets[side.rawValue][index], socket.isConnected, !socket.isGone,
                    !socket.isBlocked, !socket.hasSentAll, !socket.hasShutDown
                else { break }
                guard send(side, index, socket) else { break }
                hasFetched = true
            }
        }
        return hasFetched
    }

    private mutating func latency() -> UInt64 { UInt64(random.below(options.maximumLatency + 1)) }

    private mutating func send(_ side: Side, _ index: Int, _ socket: SimulatedSocket) -> Bool {
        let message = socket.outbox[socket.nextMessage]
        if socket.type == .seqpacket, !socket.isRecordStarted {
            do throws(SocketError) {
                try pair[side].beginRecord(
                    socket.id, byteCount: message.bytes.count, endOfRecord: message.endOfRecord)
            } catch {
                if options.conversations[index].ending == .orderly { violations.append("send: \(error.name)") }
                sockets[side.rawValue][index]?.isBlocked = true
                return false
            }
            sockets[side.rawValue][index]?.isRecordStarted = true
        }
        let offset = socket.offset
        let packet = pair.fetchPacket(
            side, socket.id, offering: message.bytes.count - offset,
            capacity: random.within(options.capacities), latency: latency()
        ) { Array(message.bytes[offset..<offset + $0]) }
        guard let packet else {
            sockets[side.rawValue][index]?.isBlocked = true
            return false
        }
        advance(side, index, by: packet)
        checkCredit(side, index)
        return true
    }

    private mutating func advance(_ side: Side, _ index: Int, by packet: OutgoingPacket) {
        guard var socket = sockets[side.rawValue][index] else { return }
        socket.transmittedByteCount += Int(packet.header.payloadByteCount)
        if case .application(let byteCount) = packet.payload { socket.offset += byteCount }
        let isSent =
            socket.type == .seqpacket
            ? !pair[side].isSendingRecord(socket.id) : socket.offset == socket.outbox[socket.nextMessage].bytes.count
        if isSent {
            socket.nextMessage += 1
            socket.offset = 0
            socket.isRecordStarted = false
        }
        sockets[side.rawValue][index] = socket
    }

    // MARK: What must hold

    private mutating func checkCredit(_ side: Side, _ index: Int) {
        guard let sender = sockets[side.rawValue][index], let receiver = sockets[side.other.rawValue][index],
            let snapshot = pair[side.other].snapshot(receiver.id)
        else { return }
        let inFlight = sender.transmittedByteCount - Int(snapshot.credit.forwardedCount)
        if inFlight > Int(options.bufferByteCount(side.other)) {
            violations.append("conversation \(index): the \(side) has \(inFlight) bytes out")
        }
    }

    mutating func checkOutcome() {
        for index in options.conversations.indices {
            let conversation = options.conversations[index]
            for side in Side.allCases {
                guard let socket = sockets[side.rawValue][index] else {
                    if conversation.ending == .orderly { violations.append("conversation \(index) never began") }
                    continue
                }
                let sent = conversation.outbox(side.other)
                if !socket.hasReceived(sent, asPrefix: conversation.ending != .orderly) {
                    violations.append("conversation \(index): the \(side) received something else")
                }
            }
        }
        for side in Side.allCases where pair[side].counters.connectionsOpened != pair[side].counters.connectionsClosed {
            violations.append("the \(side) opened and closed different numbers of connections")
        }
    }
}
