// SPDX-License-Identifier: Apache-2.0
//
// Sockets over a driver, for one thread: the calls wait by serving the driver. Small on purpose; it is what the
// demonstration and the tests use as a guest that is no Linux.

import VsockCore
import VsockSystem
import VsockWire

/// Blocking sockets of a guest in user space. Every wait has a deadline.
public final class DriverSockets {
    /// One socket's receive side.
    private struct Received {
        var bytes: [UInt8] = []
        var records: [(bytes: [UInt8], hasEndOfRecordMark: Bool)] = []
        var openRecord: [UInt8] = []
        var peerShutdown: ShutdownFlags = []
        var isConnected = false
        var error: SocketError?
    }

    /// The driver below.
    public let driver: VsockDriver
    private var endpoint: Endpoint
    private var received: [ConnectionID: Received] = [:]
    private var accepted: [UInt32: [ConnectionID]] = [:]

    /// Sockets over `driver`, in the framing that was negotiated (`unnegotiated` when SEQPACKET was not).
    public init(_ driver: VsockDriver, unnegotiated: RecordFraming = .rfcV5) {
        self.driver = driver
        endpoint = Endpoint(
            EndpointConfiguration(
                localCID: driver.guestCID, peerCID: nil,
                framing: driver.features.contains(.seqpacket) ? .standard : unnegotiated))
    }

    /// Connects to a port of `cid`.
    /// - Throws: ``SocketError/connectionReset`` when it is refused, ``SocketError/timedOut``.
    public func connect(
        _ type: SocketType, to address: VsockAddress, timeoutNanoseconds: UInt64
    ) throws -> ConnectionID {
        let id = try endpoint.connect(type, to: address, now: now)
        received[id] = Received()
        try wait(timeoutNanoseconds) { $0.received[id]?.isConnected == true || $0.received[id]?.error != nil }
        if let error = received[id]?.error {
            received[id] = nil
            throw error
        }
        return id
    }

    /// Takes connections on a port.
    public func listen(_ type: SocketType, port: UInt32, backlog: Int = 128) throws(SocketError) {
        try endpoint.listen(type, port: port, backlog: backlog)
        accepted[port] = []
    }

    /// Waits for a connection on a port that is listened on.
    public func accept(port: UInt32, timeoutNanoseconds: UInt64) throws -> ConnectionID {
        try wait(timeoutNanoseconds) { $0.accepted[port]?.isEmpty == false }
        endpoint.takeAccepted(port: port)
        guard let id = accepted[port]?.removeFirst() else { throw SocketError.timedOut }
        return id
    }

    /// Sends all bytes, as one record on a seqpacket socket.
    public func send(
        _ bytes: [UInt8], to id: ConnectionID, endOfRecord: Bool = false, timeoutNanoseconds: UInt64
    ) throws {
        let deadline = now.advanced(byNanoseconds: timeoutNanoseconds)
        let isRecord = endpoint.snapshot(id)?.type == .seqpacket
        if isRecord { try endpoint.beginRecord(id, byteCount: bytes.count, endOfRecord: endOfRecord) }
        var offset = 0
        while isRecord ? endpoint.isSendingRecord(id) : offset < bytes.count {
            if let error = failure(id) { throw error }
            if driver.transmitCapacity > 0 || reclaimed(),
                let packet = endpoint.nextPacket(id, offering: bytes.count - offset, capacity: 65536)
            {
                _ = try driver.transmit(packet.header) { area in
                    switch packet.payload {
                    case .none: break
                    case .application(let count):
                        area.copyBytes(from: bytes[offset..<(offset + count)])
                        offset += count
                    case .marker(let marker): marker.write(to: area)
                    }
                }
                continue
            }
            try serve(until: deadline)
        }
        // A record under way ends with its connection.
        guard endpoint.exists(id) else { throw failure(id) ?? .notConnected }
        try flush()
    }

    /// The next bytes of a stream (all there are), or the next record; nil at the end.
    /// - Throws: ``SocketError/timedOut``.
    public func receive(
        _ id: ConnectionID, timeoutNanoseconds: UInt64
    ) throws -> (bytes: [UInt8], hasEndOfRecordMark: Bool)? {
        try wait(timeoutNanoseconds) { sockets in
            guard let socket = sockets.received[id] else { return true }
            return !socket.bytes.isEmpty || !socket.records.isEmpty || socket.error != nil
                || socket.peerShutdown.contains(.send)
        }
        guard var socket = received[id] else { return nil }
        defer { received[id] = socket }
        if !socket.records.isEmpty {
            let record = socket.records.removeFirst()
            if !endpoint.configuration.framing.consumesUnfinishedRecords {
                endpoint.consume(id, byteCount: record.bytes.count)
            }
            try flush()
            return record
        }
        guard !socket.bytes.isEmpty else { return nil }
        let bytes = socket.bytes
        socket.bytes = []
        endpoint.consume(id, byteCount: bytes.count)
        try flush()
        return (bytes, false)
    }

    /// Gives up directions.
    public func shutdown(_ id: ConnectionID, _ flags: ShutdownFlags) throws {
        endpoint.shutdown(id, flags)
        try flush()
    }

    /// Ends a connection.
    public func close(_ id: ConnectionID) throws {
        endpoint.close(id, now: now)
        received[id] = nil
        try flush()
    }

    /// Directions that the peer has given up; both after a reset.
    public func peerShutdown(_ id: ConnectionID) -> ShutdownFlags { received[id]?.peerShutdown ?? [] }

    /// Why a connection that is not closed yet has failed; nil when it has not.
    public func error(_ id: ConnectionID) -> SocketError? { received[id]?.error }

    /// Connections that have not ended on both sides.
    public var connectionCount: Int { endpoint.connectionCount }

    /// Serves the driver until `condition` holds.
    /// - Throws: ``SocketError/timedOut``, or what is wrong with the driver.
    public func wait(
        _ timeoutNanoseconds: UInt64, until condition: (DriverSockets) -> Bool
    ) throws {
        let deadline = now.advanced(byNanoseconds: timeoutNanoseconds)
        try flush()
        while !condition(self) { try serve(until: deadline) }
    }

    // MARK: Parts

    private var now: Instant { Instant(nanoseconds: MonotonicClock.now()) }

    private func failure(_ id: ConnectionID) -> SocketError? {
        guard let socket = received[id] else { return .notConnected }
        return socket.error ?? (socket.peerShutdown.contains(.receive) ? .brokenPipe : nil)
    }

    private func reclaimed() -> Bool { (try? driver.reclaimTransmitted()) ?? 0 > 0 }

    private func serve(until deadline: Instant) throws {
        try flush()
        let current = now
        guard current < deadline else { throw SocketError.timedOut }
        let next = min(deadline, endpoint.nextDeadline ?? deadline)
        let wait = next.nanoseconds > current.nanoseconds ? next.nanoseconds - current.nanoseconds : 0
        // A full transmit queue is looked at again soon: its interrupts are not asked for.
        _ = try driver.wait(timeoutNanoseconds: driver.transmitCapacity == 0 ? min(wait, 1_000_000) : wait)
        while let expiry = endpoint.expire(now: now) {
            if case .connectTimedOut(let id) = expiry { received[id]?.error = .timedOut }
        }
        try driver.receive { header, payload in self.take(header, payload) }
        try flush()
    }

    private func flush() throws {
        while driver.transmitCapacity > 0 || reclaimed(), let header = endpoint.nextControlPacket() {
            _ = try driver.transmit(header)
        }
        driver.flush()
    }

    private func take(_ header: PacketHeader, _ payload: UnsafeRawBufferPointer) {
        let isMarker = header.operation == .sequenceBegin || header.operation == .sequenceEnd
        switch endpoint.receive(header, marker: isMarker ? SequenceHeader(payload) : nil, now: now) {
        case .handled, .dropped, .requested: break
        case .accepted(let id):
            received[id] = Received(isConnected: true)
            accepted[header.destinationPort, default: []].append(id)
        case .connected(let id): received[id]?.isConnected = true
        case .connectFailed(let id, let error): received[id]?.error = error
        case .payload(let id, let verdict): take(id, verdict, payload)
        case .peerShutdown(let id, let flags): received[id]?.peerShutdown = flags
        case .reset(let id, _):
            received[id]?.peerShutdown = .both
            received[id]?.error = .connectionReset
        }
    }

    private func take(_ id: ConnectionID, _ verdict: PayloadVerdict, _ payload: UnsafeRawBufferPointer) {
        guard endpoint.snapshot(id)?.type == .seqpacket else {
            received[id]?.bytes.append(contentsOf: payload)
            return
        }
        if verdict.discardsUnfinishedRecord {
            if !endpoint.configuration.framing.consumesUnfinishedRecords {
                endpoint.consume(id, byteCount: received[id]?.openRecord.count ?? 0)
            }
            received[id]?.openRecord = []
        }
        if verdict.deliversPayload {
            received[id]?.openRecord.append(contentsOf: payload)
            if endpoint.configuration.framing.consumesUnfinishedRecords {
                endpoint.consume(id, byteCount: payload.count)
            }
        }
        if verdict.endsRecord {
            let record = received[id]?.openRecord ?? []
            received[id]?.records.append((record, verdict.hasEndOfRecordMark))
            received[id]?.openRecord = []
        }
    }
}
