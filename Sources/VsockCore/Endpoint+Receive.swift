// SPDX-License-Identifier: Apache-2.0
//
// Packets from the peer (Linux: `virtio_transport_recv_pkt` and one function per state below it). The order of the
// checks is Linux's: addresses, type, connection, then what the state allows.

import VsockWire

extension Endpoint {
    /// Takes a packet; `marker` is the payload of a SEQ_BEGIN or SEQ_END, nil when it is not 8 bytes long.
    public mutating func receive(_ header: PacketHeader, marker: SequenceHeader?, now: Instant) -> Reception {
        counters.receivedPackets += 1
        latestInstant = now
        guard let source = UInt32(exactly: header.sourceCID),
            configuration.peerCID.map({ $0.rawValue == source }) ?? true
        else { return drop(.foreignSource) }
        guard let local = UInt32(exactly: header.destinationCID),
            configuration.answersForAnyCID || local == configuration.localCID.rawValue
        else { return refuse(header, .foreignDestination) }
        guard header.type.isKnown, header.type != .seqpacket || configuration.framing != .none else {
            return refuse(header, .wrongType)
        }
        let flow = FlowKey(
            localCID: local, peerCID: source, peerPort: header.sourcePort, localPort: header.destinationPort)
        guard let slot = slot(flow) else { return receiveWithoutConnection(header, flow, now: now) }
        guard connections[slot].type == header.type else { return refuse(header, .wrongType) }
        updateCredit(slot, from: header)
        switch connections[slot].state {
        case .connecting: return receiveConnecting(slot, header)
        case .requested: return receiveRequested(slot, header)
        case .established: return receiveEstablished(slot, header, marker)
        case .closing: return receiveClosing(slot, header)
        case .resetting: return receiveResetting(slot, header, now: now)
        case .free: return drop(.noConnection)
        }
    }

    /// A timer has run out; nil when none has. Call until nil.
    public mutating func expire(now: Instant) -> Expiry? {
        latestInstant = now
        while let slot = timers.popExpired(now: now) {
            let id = id(slot)
            switch connections[slot].state {
            case .connecting:
                reset(slot)
                return .connectTimedOut(id)
            case .closing:
                reset(slot)
                return .closeTimedOut(id)
            case .established:
                probeCredit(slot, now: now)
            default: continue
            }
        }
        return nil
    }

    // MARK: One function per state

    private mutating func receiveWithoutConnection(
        _ header: PacketHeader, _ flow: FlowKey, now: Instant
    ) -> Reception {
        guard header.operation == .request else { return refuse(header, .noConnection) }
        let listener = listeners[flow.localPort]
        if let listener {
            guard listener.type == header.type else { return refuse(header, .wrongType) }
            guard listener.waitingCount < listener.backlog else { return refuse(header, .limitReached) }
        } else if !asksForUnboundPorts {
            return refuse(header, .noListener)
        }
        guard let slot = allocate(flow, type: header.type, state: .requested) else {
            return refuse(header, .limitReached)
        }
        updateCredit(slot, from: header)
        guard listener != nil else { return .requested(id(slot)) }
        listeners[flow.localPort]?.waitingCount += 1
        move(slot, to: .established)
        enqueue(slot, .response)
        return .accepted(id(slot))
    }

    private mutating func receiveConnecting(_ slot: Int, _ header: PacketHeader) -> Reception {
        let id = id(slot)
        switch header.operation {
        case .response:
            timers.cancel(slot)
            move(slot, to: .established)
            return .connected(id)
        case .invalid:
            return drop(.ending)
        case .reset:
            free(slot)
            return .connectFailed(id, .connectionReset)
        default:
            reset(slot)
            return .connectFailed(id, .protocolError)
        }
    }

    private mutating func receiveRequested(_ slot: Int, _ header: PacketHeader) -> Reception {
        let id = id(slot)
        if header.operation == .reset {
            free(slot)
            return .reset(id, .byPeer)
        }
        // Nothing else may come before our RESPONSE.
        reset(slot)
        return .reset(id, .unknownOperation)
    }

    private mutating func receiveEstablished(
        _ slot: Int, _ header: PacketHeader, _ marker: SequenceHeader?
    ) -> Reception {
        let id = id(slot)
        switch header.operation {
        case .readWrite:
            return receivePayload(slot, header, marker)
        case .sequenceBegin where configuration.framing.defines(header.operation) && header.type == .seqpacket,
            .sequenceEnd where configuration.framing.defines(header.operation) && header.type == .seqpacket:
            return receivePayload(slot, header, marker)
        case .creditUpdate:
            return .handled
        case .creditRequest:
            connections[slot].peerWaitsForCredit = true
            enqueue(slot, .creditUpdate)
            return .handled
        case .shutdown:
            let flags = connections[slot].peerShutdown.union(
                ShutdownFlags(rawValue: header.flags).intersection(.both))
            guard flags != connections[slot].peerShutdown else { return .handled }
            connections[slot].peerShutdown = flags
            return .peerShutdown(id, flags)
        case .reset:
            free(slot)
            return .reset(id, .byPeer)
        default:
            reset(slot)
            return .reset(id, .unknownOperation)
        }
    }

    private mutating func receivePayload(
        _ slot: Int, _ header: PacketHeader, _ marker: SequenceHeader?
    ) -> Reception {
        let id = id(slot)
        guard connections[slot].credit.receive(header.payloadByteCount) else {
            reset(slot)
            return .reset(id, .creditExceeded)
        }
        counters.receivedBytes += Int(header.payloadByteCount)
        connections[slot].peerWaitsForCredit = false
        // The bytes may be a part of a record that is consumed as a whole, and the peer out of credit by now: space
        // that it has not been told of would leave it waiting.
        announceSpace(slot)
        // A peer that has shut its sending side, or one whose data nobody will read any more, only gets credit back.
        if connections[slot].peerShutdown.contains(.send) || connections[slot].localShutdown.contains(.receive) {
            consume(slot, Int(header.payloadByteCount))
            return drop(.ending)
        }
        guard header.type == .seqpacket else {
            return header.payloadByteCount > 0 ? .payload(id, .payload) : .handled
        }
        let verdict = connections[slot].receiver.receive(header, marker: marker)
        if !verdict.deliversPayload {
            consume(slot, Int(header.payloadByteCount))
            guard verdict.endsRecord || verdict.discardsUnfinishedRecord else { return .handled }
        }
        return .payload(id, verdict)
    }

    private mutating func receiveClosing(_ slot: Int, _ header: PacketHeader) -> Reception {
        switch header.operation {
        case .reset:
            free(slot)
            return .handled
        case .readWrite, .sequenceBegin, .sequenceEnd:
            // Sent before the peer saw our SHUTDOWN. Credit goes back, lest its sender waits for ever.
            if connections[slot].credit.receive(header.payloadByteCount) {
                consume(slot, Int(header.payloadByteCount))
            }
            return drop(.ending)
        case .shutdown:
            connections[slot].peerShutdown.formUnion(ShutdownFlags(rawValue: header.flags).intersection(.both))
            if connections[slot].peerShutdown == .both { reset(slot) }
            return .handled
        default:
            return drop(.ending)
        }
    }

    private mutating func receiveResetting(_ slot: Int, _ header: PacketHeader, now: Instant) -> Reception {
        switch header.operation {
        case .reset:
            free(slot)
            return .handled
        case .request:
            // The peer has forgotten the old connection and reuses its ports: our late RST would kill the new one.
            let flow = connections[slot].flow
            free(slot)
            return receiveWithoutConnection(header, flow, now: now)
        default:
            return drop(.ending)
        }
    }

    // MARK: Parts

    private mutating func updateCredit(_ slot: Int, from header: PacketHeader) {
        connections[slot].credit.update(from: header)
        connections[slot].unacknowledged.acknowledge(
            peerForwardedCount: header.forwardedCount,
            transmittedCount: connections[slot].credit.transmittedCount)
        connections[slot].hasRequestedCredit = false
        guard connections[slot].waitsForCredit, hasAwaitedCredit(slot) else { return }
        connections[slot].waitsForCredit = false
        connections[slot].awaitedByteCount = 0
        connections[slot].awaitedPacketCount = 1
        guard !connections[slot].isWritable else { return }
        connections[slot].isWritable = true
        writableQueue.append(slot)
    }

    mutating func drop(_ reason: DropReason) -> Reception {
        counters.droppedPackets += 1
        return .dropped(reason)
    }

    private mutating func refuse(_ header: PacketHeader, _ reason: DropReason) -> Reception {
        if let reset = header.resetWithoutSocket, canReceive { replies.append(reset) }
        return drop(reason)
    }
}
