// SPDX-License-Identifier: Apache-2.0
//
// The ends of a socket: its own, its peer's, its transport's.

import VsockCore
import VsockWire

extension TableSocket {
    func shutdown(_ direction: ShutdownDirection) throws(SocketError) {
        table.lock.lock()
        defer { table.lock.unlock() }
        switch state {
        case .closed: throw .badDescriptor
        case .unconnected, .connecting, .listening: throw .notConnected
        case .connected, .disconnected: break
        }
        let flags = direction.flags
        if flags.contains(.send) { settleOutgoing() }
        if flags.contains(.receive) { settleIncoming() }
        localShutdown.formUnion(flags)
        if flags.contains(.receive) { discardReceived() }
        if let id {
            if !hasRemainder {
                table.endpoint.shutdown(id, flags)
            } else {
                shutdownAfterRemainder.formUnion(flags)
            }
        }
        waits.signalAll()
        table.pump()
    }

    func close() {
        table.lock.lock()
        defer { table.lock.unlock() }
        guard state != .closed else { return }
        let last = state
        state = .closed
        table.readyWaiters.removeAll { $0 === self }
        if last == .listening, let port {
            table.endpoint.stopListening(port: port)
            for child in acceptQueue { child.closeUnaccepted() }
            acceptQueue = []
        }
        releasePort()
        leave()
        waits.signalAll()
        table.pump()
    }

    private func closeUnaccepted() {
        state = .closed
        leave()
    }

    /// Lets go of the connection; the core ends it in the background.
    private func leave() {
        settleOutgoing()
        settleIncoming()
        localShutdown = .both
        discardReceived()
        guard let id else { return }
        if !hasRemainder || !table.endpoint.exists(id) {
            table.endpoint.close(id, now: table.now)
            table.part(self)
        } else {
            closesAfterRemainder = true
        }
    }

    private func releasePort() {
        guard ownsPort, let port, table.ports[port] === self else { return }
        table.ports[port] = nil
        ownsPort = false
    }

    /// What was received is lost; its space is not.
    private func discardReceived() {
        let count = queue.removeAll()
        stash = []
        drainingToken = 0
        drainsToStash = false
        if let id, count > 0 { table.endpoint.consume(id, byteCount: count) }
    }

    // MARK: From the table

    func peerHasShut(_ flags: ShutdownFlags) {
        if flags.contains(.send) { settleIncoming() }
        if flags.contains(.receive) { settleOutgoing() }
        peerShutdown = flags
        if flags.contains(.receive) { dropRemainder() }
        waits.signalAll()
        endIfDrained()
    }

    /// A connection whose peer has shut both directions ends when all it has sent is read.
    func endIfDrained() {
        guard let id, state == .connected, peerShutdown == .both else { return }
        guard type == .stream ? queue.byteCount == 0 : queue.record == nil else { return }
        discardReceived()
        table.endpoint.close(id, now: table.now)
        table.part(self)
        state = .disconnected
        waits.signalAll()
    }

    /// The peer has reset the connection, or has broken the protocol.
    func resetByPeer(_ error: SocketError?) {
        settleOutgoing()
        settleIncoming()
        dropRemainder()
        table.part(self)
        peerShutdown = .both
        guard state != .closed else { return }
        state = .disconnected
        if let error { failure = error }
        waits.signalAll()
    }

    /// The transport has gone or started anew.
    func transportReset() {
        settleOutgoing()
        settleIncoming()
        dropRemainder()
        id = nil
        switch state {
        case .connecting:
            state = .unconnected
            failure = .connectionReset
        case .connected:
            state = .disconnected
            peerShutdown = .both
            failure = .connectionReset
        default: break
        }
        waits.signalAll()
    }

    func dropRemainder() {
        remainder = []
        remainderOffset = 0
        hasRemainder = false
        if closesAfterRemainder, let id {
            closesAfterRemainder = false
            table.endpoint.close(id, now: table.now)
            table.part(self)
        }
    }
}
