// SPDX-License-Identifier: Apache-2.0
//
// The guest's side over the package's own driver: one thread that makes packets from messages and takes packets from the
// device, as a guest's kernel does, without sockets in between. A message is copied into the driver's memory and a
// packet out of it, as a guest's kernel copies; it is shown to the device with the call that sends it.

import VsockCore
import VsockSystem
import VsockTransport
import VsockWire

/// See the top of the file.
final class DriverSide: ThreadSide, PerfSide, @unchecked Sendable {
    // Unchecked: as ThreadSide.

    private struct Line {
        let id: ConnectionID
        var sentOfMessage = 0
        /// Messages that are left of a turn which the full ring has interrupted.
        var messagesLeft = ThreadSide.turnMessageCount
        /// Bytes to send back, or that an asker waits for.
        var owedByteCount = 0
        var askedAt: UInt64 = 0
        var hasEnded = false
        /// The peer takes nothing more.
        var isDeaf = false
    }

    private static let timeoutNanoseconds: UInt64 = 10_000_000_000
    /// A device that is slow to return credit is asked again; see ``EndpointConfiguration/creditProbeNanoseconds``.
    private static let longestWaitNanoseconds: UInt64 = 100_000_000
    /// Reads, at most, before it is sent again.
    private static let turnReadCount = 32

    private let driver: VsockDriver
    @exclusivity(unchecked) private var endpoint: Endpoint
    @exclusivity(unchecked) private var lines: [Line] = []
    @exclusivity(unchecked) private var indexBySlot: [Int: Int] = [:]
    /// The clock, read once for each batch of packets.
    @exclusivity(unchecked) private var now = Instant(nanoseconds: 0)
    private var connected: ConnectionID?
    private var refusal: SocketError?

    /// Starts the device that listens on `path`.
    init(path: String, _ plan: PerfPlan, bufferByteCount: UInt32) throws {
        do throws(VsockDriverError) {
            // Devices are compared by what they do for a Linux guest.
            driver = try VsockDriver(path: path, options: .pages)
        } catch {
            throw Failure("driver:\(path): \(error)")
        }
        guard plan.type == .stream || driver.features.contains(.seqpacket) else {
            throw Failure("the device at \(path) has no SOCK_SEQPACKET")
        }
        var configuration = EndpointConfiguration(localCID: driver.guestCID, peerCID: nil, framing: .standard)
        configuration.bufferByteCount = bufferByteCount
        configuration.connectTimeoutNanoseconds = Self.timeoutNanoseconds
        // As a guest's kernel, which is what this stands for.
        configuration.limitsUnreadPackets = false
        endpoint = Endpoint(configuration)
        super.init(plan, bufferByteCount: 1 << 16)
    }

    /// Connects to the plan's port of the host once more.
    func connect() throws {
        let address = VsockAddress(cid: .host, port: VsockAddress.Port(rawValue: plan.port))
        readClock()
        let id = try endpoint.connect(plan.type, to: address, now: now)
        let deadline = now.advanced(byNanoseconds: Self.timeoutNanoseconds)
        while connected != id {
            if let refusal { throw Failure("port \(plan.port) of the host: \(refusal.name)") }
            guard now < deadline else { throw Failure("the device does not answer a connection request") }
            try serve(timeoutNanoseconds: 100_000_000)
        }
        guard lines.count < plan.connectionCount else { return }
        indexBySlot[Int(id.slot)] = lines.count
        lines.append(Line(id: id))
    }

    func run(_ role: PerfRole) throws -> PerfMeter {
        begin(role)
        readClock()
        var hasMore = true
        var first = 0
        while !isDone {
            let rest = role == .receive || role == .echo ? nil : quota.remainingNanoseconds(at: now.nanoseconds)
            try serve(timeoutNanoseconds: hasMore ? nil : min(rest ?? .max, Self.longestWaitNanoseconds))
            hasMore = false
            var next = (first + 1) % lines.count
            turns: for offset in lines.indices {
                let index = (first + offset) % lines.count
                guard maySend(index) else { continue }
                switch try sendTurn(index) {
                case .sent: hasMore = true
                case .idle: break
                case .ringIsFull:
                    // For all others, too. The one that has found it so is the next.
                    next = index
                    break turns
                }
            }
            first = next
        }
        meter.end = MonotonicClock.now()
        try close()
        return meter
    }

    private var isDone: Bool {
        switch role {
        case .receive, .echo: lines.allSatisfy { $0.hasEnded }
        case .send, .ask:
            lines.allSatisfy {
                $0.hasEnded || ($0.sentOfMessage == 0 && $0.owedByteCount == 0)
            } && !quota.allowsMessage(at: now.nanoseconds)
        case .both:
            lines.allSatisfy { $0.isDeaf }
                || (!quota.allowsMessage(at: now.nanoseconds)
                    && lines.allSatisfy { $0.isDeaf || $0.sentOfMessage == 0 } && hasReceivedEnough)
        }
    }

    /// Whether the other direction is done, too: not every device carries its end while this one is open.
    private var hasReceivedEnough: Bool {
        switch plan.limit {
        case .bytes(let count): meter.receivedByteCount >= UInt64(count) || lines.allSatisfy { $0.hasEnded }
        case .nanoseconds: true
        }
    }

    // MARK: Sending

    /// In both directions at once, the end of the other's is none of this one.
    private func maySend(_ index: Int) -> Bool {
        role == .both ? !lines[index].isDeaf : !lines[index].hasEnded
    }

    /// What sending has come to.
    private enum Outcome {
        /// All that was to be sent has been; there may be more.
        case sent
        /// There is nothing to send, or no credit.
        case idle
        case ringIsFull
    }

    /// Sends what the connection may.
    private func sendTurn(_ index: Int) throws -> Outcome {
        switch role {
        case .receive: return .idle
        case .send, .both:
            var outcome = Outcome.sent
            while lines[index].messagesLeft > 0 {
                guard lines[index].sentOfMessage > 0 || quota.allowsMessage(at: now.nanoseconds) else { return .idle }
                outcome = try sendRest(index)
                guard case .sent = outcome else { break }
                quota.take(plan.messageByteCount)
                lines[index].messagesLeft -= 1
            }
            if case .ringIsFull = outcome { return outcome }
            lines[index].messagesLeft = Self.turnMessageCount
            return outcome
        case .ask:
            guard lines[index].owedByteCount == 0 else { return .idle }
            if lines[index].sentOfMessage == 0 {
                let now = MonotonicClock.now()
                guard quota.allowsMessage(at: now) else { return .idle }
                lines[index].askedAt = now
            }
            let outcome = try sendRest(index)
            guard case .sent = outcome else { return outcome }
            quota.take(plan.messageByteCount)
            lines[index].owedByteCount = plan.messageByteCount
            return .idle
        case .echo:
            while lines[index].owedByteCount >= message.count || lines[index].sentOfMessage > 0 {
                let outcome = try sendRest(index)
                guard case .sent = outcome else { return outcome }
                lines[index].owedByteCount -= message.count
            }
            return .idle
        }
    }

    /// Sends what is left of the message under way.
    private func sendRest(_ index: Int) throws -> Outcome {
        let id = lines[index].id
        let isRecord = plan.type == .seqpacket
        if isRecord, lines[index].sentOfMessage == 0, !endpoint.isSendingRecord(id) {
            guard endpoint.hasCredit(id, byteCount: message.count, packetCount: 1) else { return .idle }
            try endpoint.beginRecord(id, byteCount: message.count, endOfRecord: false)
        }
        while lines[index].sentOfMessage < message.count {
            guard try hasRoom() else { return .ringIsFull }
            guard
                let packet = endpoint.nextPacket(
                    id, offering: message.count - lines[index].sentOfMessage,
                    capacity: PacketHeader.maximumPayloadByteCount)
            else { return .idle }
            let start = lines[index].sentOfMessage
            let end = start + Int(packet.header.payloadByteCount)
            try transmit(packet.header, UnsafeRawBufferPointer(rebasing: message[start..<end]))
            lines[index].sentOfMessage = end
            meter.sentByteCount += UInt64(end - start)
        }
        lines[index].sentOfMessage = 0
        driver.flush()
        return .sent
    }

    private func hasRoom() throws -> Bool {
        if driver.transmitCapacity > 0 { return true }
        if try driver.reclaimTransmitted() > 0 { return true }
        driver.flush()
        return driver.requestTransmitInterrupt() ? try driver.reclaimTransmitted() > 0 : false
    }

    // MARK: Serving the driver

    private func readClock() { now = Instant(nanoseconds: MonotonicClock.now()) }

    /// Takes what has come, after waiting for it unless `timeoutNanoseconds` is nil.
    private func serve(timeoutNanoseconds: UInt64?) throws {
        readClock()
        try sendControl()
        if try !receive(), let timeoutNanoseconds {
            _ = try driver.wait(timeoutNanoseconds: timeoutNanoseconds)
            readClock()
            _ = try receive()
        }
        while let expiry = endpoint.expire(now: now) {
            if case .connectTimedOut = expiry { refusal = .timedOut }
        }
        while endpoint.nextWritable() != nil {}
        try sendControl()
        plan.tap?.batchEnded()
    }

    /// Takes what has come; whether there was something. Credit goes back every 64 KiB: a guest's program reads so much at
    /// a time.
    private func receive() throws -> Bool {
        for turn in 0..<Self.turnReadCount {
            let count = try driver.receive(byteLimit: PerfPlan.streamBufferByteCount) { take($0, $1) }
            guard count > 0 else { return turn > 0 }
            try sendControl()
        }
        return true
    }

    private func sendControl() throws {
        while endpoint.hasControlPackets, try hasRoom(), let header = endpoint.nextControlPacket() {
            try transmit(header, UnsafeRawBufferPointer(start: nil, count: 0))
        }
        driver.flush()
    }

    private func transmit(_ header: PacketHeader, _ payload: UnsafeRawBufferPointer) throws {
        plan.tap?.packet(header, payload, isOutgoing: true)
        _ = try driver.transmit(header, payload: payload)
    }

    private func take(_ header: PacketHeader, _ payload: UnsafeRawBufferPointer) {
        plan.tap?.packet(header, payload, isOutgoing: false)
        switch endpoint.receive(header, marker: nil, now: now) {
        case .handled, .dropped, .requested: break
        case .accepted(let id): endpoint.abort(id)
        case .connected(let id): connected = id
        case .connectFailed(_, let error): refusal = error
        case .payload(let id, _):
            buffer.copyMemory(from: payload)
            endpoint.consume(id, byteCount: payload.count)
            if let index = index(id) { received(payload.count, index) }
        case .peerShutdown(let id, let flags):
            guard let index = index(id) else { return }
            if flags.contains(.send) { lines[index].hasEnded = true }
            if flags.contains(.receive) { lines[index].isDeaf = true }
        case .reset(let id, _):
            guard let index = indexBySlot[Int(id.slot)] else { return }
            lines[index].hasEnded = true
            lines[index].isDeaf = true
        }
    }

    private func received(_ count: Int, _ index: Int) {
        meter.countReceived(count, index)
        switch role {
        case .send, .receive, .both: break
        case .echo: lines[index].owedByteCount += count
        case .ask:
            lines[index].owedByteCount -= count
            if lines[index].owedByteCount <= 0 {
                lines[index].owedByteCount = 0
                meter.recordRoundTrip(MonotonicClock.now() - lines[index].askedAt)
            }
        }
    }

    private func index(_ id: ConnectionID) -> Int? {
        guard let index = indexBySlot[Int(id.slot)], lines[index].id == id else { return nil }
        return index
    }

    /// Ends all connections, silent ones too, and waits until the device has taken that.
    private func close() throws {
        readClock()
        for id in endpoint.connectionIDs { endpoint.close(id, now: now) }
        let deadline = now.advanced(byNanoseconds: 2_000_000_000)
        while endpoint.connectionCount > 0, now < deadline { try serve(timeoutNanoseconds: 100_000_000) }
    }
}
