// SPDX-License-Identifier: Apache-2.0
//
// bind, listen, accept and connect, with the checks and errors of af_vsock.c in its order.

import VsockCore
import VsockWire

extension TableSocket {
    func bind(to address: VsockAddress) throws(SocketError) {
        table.lock.lock()
        defer { table.lock.unlock() }
        guard state != .closed else { throw .badDescriptor }
        guard state == .unconnected, port == nil else { throw .invalidArgument }
        guard address.cid == .any || address.cid == table.localCID else { throw .addressNotAvailable }
        let wanted = address.port
        if wanted != .any {
            guard !table.reservesLowPorts || wanted.rawValue > VsockAddress.Port.lastReserved.rawValue else {
                throw .accessDenied
            }
            guard table.ports[wanted.rawValue] == nil else { throw .addressInUse }
        }
        own(wanted == .any ? try table.freePort() : wanted.rawValue)
        boundCID = address.cid
    }

    func listen(backlog: Int) throws(SocketError) {
        table.lock.lock()
        defer { table.lock.unlock() }
        guard state != .closed else { throw .badDescriptor }
        guard state == .unconnected || state == .listening, let port else { throw .invalidArgument }
        if state == .listening { table.endpoint.stopListening(port: port) }
        // As many as `backlog` may wait behind the one that is next; a negative number is the largest there is.
        let count = min(UInt(bitPattern: backlog), UInt(SocketTable.maximumBacklog)) + 1
        self.backlog = Int(count)
        try table.endpoint.listen(type, port: port, backlog: self.backlog)
        state = .listening
    }

    func attemptAccept() throws(SocketError) -> Attempt<any ConnectibleSocket> {
        table.lock.lock()
        defer { table.lock.unlock() }
        guard state != .closed else { throw .badDescriptor }
        guard state == .listening, let port else { throw .invalidArgument }
        guard !acceptQueue.isEmpty else {
            guard !table.hasFailed else { throw .noDevice }
            return .blocked(waits.ticket(.readable))
        }
        table.endpoint.takeAccepted(port: port)
        return .done(acceptQueue.removeFirst())
    }

    func attemptConnect(
        to address: VsockAddress, _ operation: inout ConnectOperation
    ) throws(SocketError) -> Attempt<Void> {
        table.lock.lock()
        defer { table.lock.unlock() }
        switch state {
        case .closed: throw .badDescriptor
        case .listening: throw .invalidArgument
        case .connected, .disconnected:
            guard operation.hasStarted else { throw localShutdown.isEmpty ? .alreadyConnected : .invalidArgument }
            return .done(())
        case .connecting:
            guard operation.hasStarted else { throw .alreadyInProgress }
            return .blocked(waits.ticket(.writable))
        case .unconnected:
            if operation.hasStarted {
                let error = failure ?? .connectionReset
                failure = nil
                throw error
            }
        }
        guard try start(to: address, &operation) else { return .blocked(waits.ticket(.writable)) }
        // Over a loopback it is decided before the ticket is used; who does not wait gets EINPROGRESS all the same.
        let ticket = waits.ticket(.writable)
        table.pump()
        return .blocked(ticket)
    }

    /// False when the peer's driver is not there yet; the connect timeout runs meanwhile.
    private func start(
        to address: VsockAddress, _ operation: inout ConnectOperation
    ) throws(SocketError) -> Bool {
        guard !table.hasFailed, let carrier = table.carrier else { throw .noDevice }
        guard carrier.reaches(address.cid) else { throw .noDevice }
        let now = table.now
        let deadline = operation.deadline ?? now.advanced(byNanoseconds: settingsInForce.connectTimeoutNanoseconds)
        guard table.isReady else {
            operation.deadline = deadline
            if !table.readyWaiters.contains(where: { $0 === self }) { table.readyWaiters.append(self) }
            return false
        }
        guard type != .seqpacket || table.endpoint.configuration.framing != .none else {
            throw .socketTypeNotSupported
        }
        if port == nil { own(try table.freePort()) }
        // Linux's loopback takes the host's CID as its own when there is no guest transport.
        let cid = table.localCID == .local && address.cid == .host ? .local : address.cid
        let target = VsockAddress(cid: cid, port: address.port)
        // The wait for the driver counts.
        let remaining = deadline.nanoseconds - min(now.nanoseconds, deadline.nanoseconds)
        let id = try table.endpoint.connect(type, to: target, from: port, timeoutNanoseconds: remaining, now: now)
        table.join(self, id)
        offerBuffer()
        peer = target
        failure = nil
        state = .connecting
        operation.hasStarted = true
        operation.deadline = nil
        return true
    }

    func abandonConnect() {
        table.lock.lock()
        defer { table.lock.unlock() }
        table.readyWaiters.removeAll { $0 === self }
        guard state == .connecting, let id else { return }
        table.endpoint.close(id, now: table.now)
        table.part(self)
        state = .unconnected
        waits.signalAll()
        table.pump()
    }

    // MARK: From the table

    func connected() {
        state = .connected
        waits.signalAll()
    }

    func connectFailed(_ error: SocketError) {
        table.part(self)
        state = .unconnected
        failure = error
        waits.signalAll()
    }

    /// Becomes a connection that a listener has taken.
    func becomeAccepted(port: UInt32, peer: VsockAddress) {
        state = .connected
        self.port = port
        self.peer = peer
    }

    private func own(_ port: UInt32) {
        self.port = port
        ownsPort = true
        table.ports[port] = self
    }
}
