// SPDX-License-Identifier: Apache-2.0
//
// What the halves of other VMs say to this one's.

import Logging
import VsockCore
import VsockWire

extension SiblingHost {
    /// Takes one message.
    func receive(_ event: SiblingEvent, for socket: SiblingSocket) {
        if case .request(_, let origin, let port, let limit) = event {
            let deadline = loop.now.advanced(byNanoseconds: endpoint.configuration.connectTimeoutNanoseconds)
            socket.route = route(to: UInt64(origin.cid.rawValue))
            return connectToGuest(
                DeferredRequest(socket: socket, origin: origin, port: port, recordLimit: limit, deadline: deadline))
        }
        guard socket.phase != .closed else { return }
        guard let id = socket.id else {
            // A request that still waits can only be given up.
            forget(socket)
            return deferred.removeAll { $0.socket === socket }
        }
        switch event {
        case .request:
            break
        case .accepted(let limit):
            guard socket.phase == .requested else { return }
            limitRecords(socket, id, limit)
            endpoint.accept(id)
            socket.phase = .open
        case .refused:
            countFailure()
            endpoint.refuse(id)
            forget(socket)
        case .recordLimit(let limit):
            limitRecords(socket, id, limit)
        case .payload(let parcel):
            socket.queue.append(parcel, isRecord: socket.type == .seqpacket)
            if socket.isDiscarding { discardQueue(socket) } else { enqueue(socket) }
        case .discardOpenRecord:
            socket.queue.discardOpenRecord()
        case .consumed(let byteCount, let recordCount):
            siblingConsumed(socket, byteCount: byteCount, recordCount: recordCount)
        case .shutdown(let flags):
            socket.peerShutdown = flags
            if flags.contains(.receive) { endpoint.shutdown(id, .receive) }
            queueDrained(socket)
        case .closed:
            siblingClosed(socket, id)
        case .aborted:
            endpoint.abort(id)
            forget(socket)
        }
    }

    /// A sibling asks for a port of this guest.
    private func connectToGuest(_ request: DeferredRequest) {
        let socket = request.socket
        do throws(SocketError) {
            guard isDriverReady else { throw .connectionReset }
            let id = try endpoint.connect(
                socket.type, to: VsockAddress(cid: guestCID, port: VsockAddress.Port(rawValue: request.port)),
                as: request.origin.cid, from: request.origin.port.rawValue, now: loop.now)
            register(socket, id)
            limitRecords(socket, id, request.recordLimit)
        } catch .addressInUse where deferred.count < Self.maximumDeferredCount && loop.now < request.deadline {
            // The sibling has ended an older connection of these ports, and the guest has not yet.
            deferred.append(request)
        } catch {
            if error == .noBufferSpace { limits.reached(in: endpoint, now: loop.now) }
            log.debug(
                "sibling refused",
                metadata: ["origin": "\(request.origin)", "port": "\(request.port)", "reason": "\(error.name)"])
            counters.refused += 1
            post(.refused, from: socket)
            forget(socket)
        }
    }

    /// Tries again what could not be asked of the guest before.
    func retryDeferred() {
        guard !deferred.isEmpty else { return }
        let requests = deferred
        deferred = []
        for request in requests { connectToGuest(request) }
    }

    /// Lets the guest send no record that the sibling could not take, so that its send fails with EMSGSIZE as it
    /// would between two guests of the kernel. Records that flow through the buffer need no limit.
    private func limitRecords(_ socket: SiblingSocket, _ id: ConnectionID, _ limit: Int) {
        guard socket.type == .seqpacket, !endpoint.configuration.framing.consumesUnfinishedRecords else { return }
        endpoint.setBuffer(id, byteCount: min(endpoint.configuration.bufferByteCount, UInt32(clamping: limit)))
    }

    /// The other half is gone; this guest still gets what was sent before.
    private func siblingClosed(_ socket: SiblingSocket, _ id: ConnectionID) {
        socket.peer = nil
        guard socket.phase == .open else {
            endpoint.close(id, now: loop.now)
            return forget(socket)
        }
        socket.queue.discardOpenRecord()
        socket.peerShutdown = .both
        endpoint.shutdown(id, .receive)
        queueDrained(socket)
    }

    func enqueue(_ socket: SiblingSocket) {
        guard !socket.isQueued, socket.phase == .open, let id = socket.id else { return }
        socket.isQueued = true
        readyQueue.append(Int(id.slot))
    }
}
