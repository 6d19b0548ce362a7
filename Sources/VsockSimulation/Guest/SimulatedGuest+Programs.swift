// SPDX-License-Identifier: Apache-2.0
//
// What the guest's programs do with their sockets, and what the guest's kernel tells them. Records of the standard
// framing are read as a whole: the strictest reader there is.

import VsockCore
import VsockTestSupport
import VsockWire

extension SimulatedGuest {
    // MARK: Beginnings

    /// A program listens for a conversation.
    func listen(_ conversation: Conversation) {
        do throws(SocketError) {
            try endpoint.listen(conversation.type, port: conversation.port, backlog: 4)
            listening[conversation.port] = conversation
        } catch {
            observer.violation("guest \(options.cid) cannot listen: \(error.name)")
        }
    }

    /// A program asks for a conversation with `peer`.
    func connect(_ conversation: Conversation, to peer: UInt32) {
        let address = VsockAddress(cid: .init(rawValue: peer), port: .init(rawValue: conversation.port))
        do throws(SocketError) {
            let id = try endpoint.connect(
                conversation.type, to: address, from: conversation.originPort, now: observer.now)
            register(GuestSocket(id, conversation, conversation.ends.initiator, isConnected: false))
        } catch {
            observer.violation("guest \(options.cid) cannot connect: \(error.name)")
            conversation.refuse()
        }
    }

    /// Nobody comes any more: programs stop listening.
    func stopIdleListeners() {
        for port in listening.keys.sorted() {
            guard let conversation = listening[port], conversation.ends.initiator.isClosed else { continue }
            endpoint.stopListening(port: port)
            listening[port] = nil
            conversation.ends.acceptor.isClosed = true
        }
    }

    // MARK: What the kernel says

    func handle(_ reception: Reception, _ header: PacketHeader, _ payload: UnsafeRawBufferPointer) {
        switch reception {
        case .handled, .dropped: break
        case .requested(let id): endpoint.refuse(id)
        case .accepted(let id): accepted(id, port: header.destinationPort)
        case .connected(let id):
            guard let socket = socket(id) else { return unknown(id) }
            socket.isConnected = true
            socket.conversation.isEstablished = true
            socket.conversation.isConnected = true
        case .connectFailed(let id, _):
            guard let socket = socket(id) else { return unknown(id) }
            drop(socket)
            socket.conversation.connectFailed()
        case .payload(let id, let verdict):
            guard let socket = socket(id) else {
                // The program is gone, its connection is ending.
                return endpoint.consume(id, byteCount: verdict.deliversPayload ? payload.count : 0)
            }
            take(socket, verdict, payload)
        case .peerShutdown(let id, let flags):
            guard let socket = socket(id) else { return }
            socket.peerShutdown = flags
            socket.isBlocked = false
        case .reset(let id, let cause):
            if cause != .byPeer, !isMisbehaving {
                observer.violation("guest \(options.cid): the device breaks the protocol: \(cause)")
            }
            guard let socket = socket(id) else { return }
            drop(socket)
        }
    }

    /// Timers of the kernel that have run out.
    func expire() {
        while let expiry = endpoint.expire(now: observer.now) {
            guard case .connectTimedOut(let id) = expiry, let socket = socket(id) else { continue }
            drop(socket)
            socket.conversation.connectFailed()
        }
    }

    private func unknown(_ id: ConnectionID) { observer.violation("guest \(options.cid) knows no connection \(id)") }

    private func accepted(_ id: ConnectionID, port: UInt32) {
        endpoint.takeAccepted(port: port)
        // A hostile guest knows no port but by chance, and cannot be who it is not.
        guard let conversation = listening[port], let snapshot = endpoint.snapshot(id),
            conversation.initiator.isHost
                ? snapshot.peerCID == VsockAddress.ContextID.host.rawValue
                : snapshot.peerPort == conversation.originPort
        else { return endpoint.abort(id) }
        endpoint.stopListening(port: port)
        listening[port] = nil
        conversation.isEstablished = true
        register(GuestSocket(id, conversation, conversation.ends.acceptor, isConnected: true))
    }

    private func take(_ socket: GuestSocket, _ verdict: PayloadVerdict, _ payload: UnsafeRawBufferPointer) {
        if verdict.discardsUnfinishedRecord {
            socket.end.recordDiscarded()
            releaseHeld(socket)
        }
        if verdict.deliversPayload {
            socket.end.received(payload)
            socket.heldByteCount += payload.count
            if socket.end.type == .stream || options.framing.consumesUnfinishedRecords { releaseHeld(socket) }
        }
        if verdict.endsRecord {
            socket.end.recordEnded(hasMark: verdict.hasEndOfRecordMark)
            releaseHeld(socket)
        }
    }

    private func releaseHeld(_ socket: GuestSocket) {
        socket.consumableByteCount += socket.heldByteCount
        socket.heldByteCount = 0
    }

    // MARK: What programs do

    /// Each program reads, and ends what is to be ended.
    func runPrograms(_ random: inout PRNG, isDiligent: Bool) {
        for case let socket? in sockets where socket.isConnected {
            if socket.consumableByteCount > 0, isDiligent || random.chance(percent: 50) {
                let all = socket.consumableByteCount
                let count = isDiligent || random.chance(percent: 50) ? all : random.within(1...all)
                socket.consumableByteCount -= count
                endpoint.consume(socket.id, byteCount: count)
            }
            finish(socket)
        }
    }

    /// Closes a connection now, whatever is under way.
    func abandon(_ conversation: Conversation, isAbort: Bool) {
        for case let socket? in sockets where socket.conversation === conversation {
            conversation.isDoomed = true
            if isAbort { endpoint.abort(socket.id) } else { endpoint.close(socket.id, now: observer.now) }
            drop(socket)
        }
    }

    private func finish(_ socket: GuestSocket) {
        let end = socket.end
        if socket.peerShutdown.contains(.receive), !end.hasSentAll { end.giveUpSending() }
        // What came before the end was counted when it came.
        end.sawEnd = socket.peerShutdown.contains(.send)
        guard end.hasSentAll, !endpoint.isSendingRecord(socket.id) || socket.peerShutdown.contains(.receive) else {
            return
        }
        if !end.hasEnded {
            end.hasEnded = true
            endpoint.shutdown(socket.id, .send)
        }
        guard end.sawEnd, socket.consumableByteCount == 0 else { return }
        endpoint.close(socket.id, now: observer.now)
        drop(socket)
    }

    /// The next packet with payload of a program.
    func nextPacket(_ socket: GuestSocket) -> (PacketHeader, [UInt8])? {
        let end = socket.end
        guard socket.isConnected, !socket.isBlocked, !end.hasSentAll, !end.hasEnded else { return nil }
        if end.type == .seqpacket, !socket.isRecordStarted {
            do throws(SocketError) {
                let part = end.outgoing.parts[end.part]
                try endpoint.beginRecord(socket.id, byteCount: part.byteCount, endOfRecord: part.endOfRecord)
                socket.isRecordStarted = true
            } catch {
                if error == .messageTooLong { observer.violation("\(socket.conversation): EMSGSIZE") }
                end.giveUpSending()
                return nil
            }
        }
        let packet = endpoint.nextPacket(
            socket.id, offering: end.remainingOfPart, capacity: options.rings.transmitPayload)
        guard let packet else {
            socket.isBlocked = true
            return nil
        }
        var bytes: [UInt8] = []
        switch packet.payload {
        case .none: break
        case .application(let count):
            bytes = end.nextBytes(count)
            end.sent(count)
        case .marker(let marker):
            bytes = [UInt8](repeating: 0, count: SequenceHeader.byteCount)
            bytes.withUnsafeMutableBytes { marker.write(to: $0) }
        }
        if end.type == .seqpacket, !endpoint.isSendingRecord(socket.id) {
            socket.isRecordStarted = false
            end.partSent()
        }
        return (packet.header, bytes)
    }
}
