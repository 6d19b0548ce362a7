// SPDX-License-Identifier: Apache-2.0
//
// Connections in the making, both ways.

import Logging
import VsockCore
import VsockSystem
import VsockWire

extension HybridHost {
    /// The send buffer asked for on seqpacket sockets: AF_UNIX carries no record that is larger. The kernel grants
    /// at most net.core.wmem_max (212,992 by default, which it doubles).
    static let recordBufferByteCount: Int32 = 4 << 20

    /// The guest asks for a port: a host program listens at `PATH_<port>`, or the guest is refused at once.
    func connectToHost(_ id: ConnectionID, _ header: PacketHeader) {
        let target = "\(path)_\(header.destinationPort)"
        do throws(SystemCallError) {
            let descriptor = try UnixSocket.connect(
                to: try UnixAddress(target), type: header.type == .stream ? .stream : .seqpacket, nonBlocking: true)
            let socket = HostSocket(descriptor, type: header.type, id: id, phase: .open, host: self)
            enlargeSendBuffer(socket)
            try register(socket)
            endpoint.accept(id)
            enqueue(socket)
        } catch {
            counters.refusedByHost += 1
            log.debug("guest connection refused", metadata: ["reason": "\(error)"])
            endpoint.refuse(id)
        }
    }

    /// A client of `PATH` or `PATH_seqpacket` asks for a port of the guest.
    func connectToGuest(_ descriptor: consuming OwnedFileDescriptor, type: SocketType, port: UInt32) {
        guard isDriverReady else {
            log.debug("no guest to connect to", metadata: ["port": "\(port)"])
            return
        }
        let guest = VsockAddress(
            cid: endpoint.configuration.peerCID ?? .any, port: VsockAddress.Port(rawValue: port))
        do throws(SocketError) {
            let id = try endpoint.connect(type, to: guest, now: loop.now)
            let socket = HostSocket(descriptor, type: type, id: id, phase: .connecting, host: self)
            enlargeSendBuffer(socket)
            do throws(SystemCallError) {
                try register(socket)
            } catch {
                endpoint.abort(id)
                log.warning("a client cannot be served", metadata: ["reason": "\(error)"])
            }
        } catch {
            if error == .noBufferSpace { limits.reached(in: endpoint, now: loop.now) }
            log.debug("client refused", metadata: ["port": "\(port)", "reason": "\(error.name)"])
        }
        if let carrier { loop.schedule(carrier) }
    }

    /// The guest has accepted a client's connection.
    func connected(_ id: ConnectionID) {
        guard let socket = socket(id), let snapshot = endpoint.snapshot(id) else { return endpoint.abort(id) }
        let answer = ConnectCommand.answer(hostPort: snapshot.localPort)
        let result = answer.withUnsafeBytes { DescriptorIO.send(socket.descriptor.rawValue, from: $0) }
        guard case .count(answer.count) = result else {
            // The client has left, or has filled its own socket before the answer.
            endpoint.abort(id)
            return close(socket)
        }
        socket.phase = .open
        enqueue(socket)
    }

    private func enlargeSendBuffer(_ socket: HostSocket) {
        // Best effort: a record that does not fit resets its connection with a message, and of a stream more goes
        // through the backlog.
        let descriptor = socket.descriptor.rawValue
        guard socket.type == .seqpacket else {
            let byteCount = Int(endpoint.configuration.bufferByteCount)
            try? SocketOptions.setSendBuffer(descriptor, byteCount: byteCount)
            return
        }
        try? SocketOptions.setSendBuffer(descriptor, byteCount: Int(Self.recordBufferByteCount))
        socket.maximumRecordByteCount = (try? SocketOptions.sendBuffer(descriptor)) ?? socket.maximumRecordByteCount
    }
}
