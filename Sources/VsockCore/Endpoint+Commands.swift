// SPDX-License-Identifier: Apache-2.0
//
// What the owner of connections asks for (Linux: af_vsock.c's calls into `struct vsock_transport`).

import VsockWire

extension Endpoint {
    /// Hands requests to ports without listener to the caller as ``Reception/requested(_:)`` instead of refusing
    /// them: for a device whose listeners are sockets in the file system.
    public mutating func askForUnboundPorts() { asksForUnboundPorts = true }

    /// Takes connections on a port.
    /// - Throws: ``SocketError/addressInUse`` when it is taken, by either type: both share one table.
    public mutating func listen(_ type: SocketType, port: UInt32, backlog: Int) throws(SocketError) {
        guard listeners[port] == nil else { throw .addressInUse }
        listeners[port] = Listener(type: type, backlog: max(1, backlog))
    }

    /// Takes no more connections on a port; those that wait to be taken are the caller's to close.
    public mutating func stopListening(port: UInt32) { listeners[port] = nil }

    /// A connection that a listener had accepted has been taken over by the application: it no longer counts
    /// against the backlog.
    public mutating func takeAccepted(port: UInt32) {
        guard let count = listeners[port]?.waitingCount, count > 0 else { return }
        listeners[port]?.waitingCount = count - 1
    }

    /// Asks the peer for a connection, as `localCID` where this side answers for several; ``Reception/connected(_:)`` or ``Reception/connectFailed(_:_:)`` follows, or
    /// ``Expiry/connectTimedOut(_:)``.
    /// - Throws: ``SocketError/socketTypeNotSupported``; ``SocketError/addressInUse`` when the local port is taken
    ///   or no ephemeral port is free; ``SocketError/noBufferSpace`` at a limit of connections.
    public mutating func connect(
        _ type: SocketType, to peer: VsockAddress, as localCID: VsockAddress.ContextID? = nil,
        from localPort: UInt32? = nil, timeoutNanoseconds: UInt64? = nil, now: Instant
    ) throws(SocketError) -> ConnectionID {
        guard type != .seqpacket || configuration.framing != .none else { throw .socketTypeNotSupported }
        var flow = FlowKey(
            localCID: (localCID ?? configuration.localCID).rawValue, peerCID: peer.cid.rawValue,
            peerPort: peer.port.rawValue, localPort: 0)
        if let localPort {
            flow.localPort = localPort
        } else {
            flow.localPort = try freePort(flow)
        }
        guard flows[flow] == nil else { throw .addressInUse }
        guard let slot = allocate(flow, type: type, state: .connecting) else { throw .noBufferSpace }
        let timeout = timeoutNanoseconds ?? configuration.connectTimeoutNanoseconds
        timers.set(slot, deadline: now.advanced(byNanoseconds: timeout))
        enqueue(slot, .request)
        return id(slot)
    }

    /// Accepts a connection that was ``Reception/requested(_:)``.
    public mutating func accept(_ id: ConnectionID) {
        guard let slot = slot(id), connections[slot].state == .requested else { return }
        move(slot, to: .established)
        enqueue(slot, .response)
    }

    /// Refuses a connection that was ``Reception/requested(_:)``: the peer sees ECONNRESET.
    public mutating func refuse(_ id: ConnectionID) {
        guard let slot = slot(id), connections[slot].state == .requested else { return }
        reset(slot)
    }

    /// Gives up directions for good (shutdown(2)); what the application has sent before must have been fetched.
    public mutating func shutdown(_ id: ConnectionID, _ flags: ShutdownFlags) {
        guard let slot = slot(id), connections[slot].state == .established,
            !connections[slot].localShutdown.isSuperset(of: flags)
        else { return }
        connections[slot].localShutdown.formUnion(flags)
        enqueue(slot, .shutdown)
    }

    /// Ends a connection in peace (close(2)): at once when the peer has given up both directions, else it is asked
    /// to end it and reset when it does not in time. `id` is void afterwards.
    public mutating func close(_ id: ConnectionID, now: Instant) {
        guard let slot = slot(id) else { return }
        switch connections[slot].state {
        case .established where connections[slot].peerShutdown != .both:
            move(slot, to: .closing)
            connections[slot].localShutdown = .both
            connections[slot].generation &+= 1
            timers.set(slot, deadline: now.advanced(byNanoseconds: configuration.closeTimeoutNanoseconds))
            enqueue(slot, .shutdown)
            // Whatever is unread is lost with the socket; its space is not.
            consume(slot, Int(connections[slot].credit.receivedByteCount))
        case .connecting where connections[slot].pending.contains(.request):
            free(slot)
        default:
            reset(slot)
        }
    }

    /// Ends a connection at once with an RST. `id` is void afterwards.
    public mutating func abort(_ id: ConnectionID) {
        guard let slot = slot(id) else { return }
        reset(slot)
    }

    /// The application has taken (or thrown away) payload bytes of a connection; their space is free again.
    public mutating func consume(_ id: ConnectionID, byteCount: Int) {
        guard let slot = slot(id) else { return }
        consume(slot, byteCount)
    }

    /// Counts payload that has gone from one connection of this endpoint to another without packets, and has not been
    /// consumed yet. What was sent and consumed without packets need not be counted.
    public mutating func cross(from sender: ConnectionID, to receiver: ConnectionID, byteCount: Int) {
        if let slot = slot(sender) { connections[slot].credit.transmit(byteCount) }
        if let slot = slot(receiver) { _ = connections[slot].credit.receive(UInt32(clamping: byteCount)) }
    }

    /// Begins anew with another peer, which may have negotiated another framing: all connections are forgotten, as by
    /// ``forgetAll()``. Names of connections stay unique, so that a name from before is recognised as stale.
    public mutating func restart(framing: RecordFraming) {
        forgetAll()
        configuration.framing = framing
    }

    /// Changes the size of a connection's receive buffer and tells the peer (SO_VM_SOCKETS_BUFFER_SIZE). Before the
    /// first packet of a connection it is part of that.
    public mutating func setBuffer(_ id: ConnectionID, byteCount: UInt32) {
        guard let slot = slot(id), connections[slot].credit.resize(to: byteCount) else { return }
        if connections[slot].state == .established, connections[slot].pending.isEmpty {
            enqueue(slot, .creditUpdate)
        }
    }

    /// Forgets all connections without a word to the peer, as after a transport reset. Listeners stay.
    public mutating func forgetAll() {
        for slot in 0..<connections.count where connections[slot].state != .free { free(slot) }
        replies.removeAll(keepingCapacity: true)
        replyHead = 0
    }

    mutating func consume(_ slot: Int, _ byteCount: Int) {
        guard byteCount > 0 else { return }
        connections[slot].credit.consume(byteCount)
        announceSpace(slot)
    }

    mutating func announceSpace(_ slot: Int) {
        guard connections[slot].state != .resetting else { return }
        let credit = connections[slot].credit
        // A peer that waits is told a quarter of what is unread at a time, and when nothing is: it may be short of
        // packets, which the rule for bytes does not see.
        let untold = UInt64(credit.forwardedCount &- credit.lastForwardedCount)
        let isAwaited =
            connections[slot].peerWaitsForCredit && untold > 0 && 3 * untold >= UInt64(credit.receivedByteCount)
        if isAwaited || credit.needsUpdate { enqueue(slot, .creditUpdate) }
    }

    private mutating func freePort(_ template: FlowKey) throws(SocketError) -> UInt32 {
        var flow = template
        let range = configuration.ephemeralPorts
        // One attempt more than there can be ports in use finds a free one or there is none.
        for _ in 0...(connections.count + listeners.count) {
            let port = nextEphemeralPort
            nextEphemeralPort = port == range.upperBound ? range.lowerBound : port + 1
            flow.localPort = port
            if flows[flow] == nil, listeners[port] == nil { return port }
        }
        throw .addressInUse
    }
}
