// SPDX-License-Identifier: Apache-2.0
//
// Two endpoints joined by two queues in memory, under a clock that only moves when it is told to. As on a virtqueue,
// nothing is lost and nothing overtakes anything; a packet may only take its time.
//
//      guest --- fetch ---> link(to host) --- deliver ---> host
//      guest <-- deliver -- link(to guest) <--- fetch ---- host

import VsockCore
import VsockWire

/// One end of an ``EndpointPair``.
public enum Side: Int, Sendable, CaseIterable {
    /// The guest, context ID 3.
    case guest = 0
    /// The host, context ID 2.
    case host = 1

    /// The opposite end.
    public var other: Side { self == .guest ? .host : .guest }
}

/// A packet that has come, and what the endpoint said to it.
public struct Delivery: Sendable {
    /// The header.
    public var header: PacketHeader
    /// The payload; of a marker its 8 bytes.
    public var payload: [UInt8]
    /// The endpoint's answer.
    public var reception: Reception
}

/// Two endpoints and what is on its way between them.
public struct EndpointPair: ~Copyable {
    private struct Flight {
        var arrival: Instant
        var header: PacketHeader
        var payload: [UInt8]
    }

    /// The time.
    public private(set) var now = Instant(nanoseconds: 0)
    /// A hash over all packets and their times of departure: equal runs have equal traces.
    public private(set) var traceHash: UInt64 = 0xcbf2_9ce4_8422_2325
    /// Packets fetched so far.
    public private(set) var packetCount = 0
    /// Whether the carrier swallows CREDIT_REQUEST, as peers do that do not know it.
    public var losesCreditRequests = false

    private var guest: Endpoint
    private var host: Endpoint
    private var toGuest: [Flight] = []
    private var toHost: [Flight] = []

    /// A pair of the given endpoints; each must be the other's peer.
    public init(guest: EndpointConfiguration = .guest(), host: EndpointConfiguration = .host()) {
        self.guest = Endpoint(guest)
        self.host = Endpoint(host)
    }

    /// The endpoint of a side.
    public subscript(_ side: Side) -> Endpoint {
        _read {
            switch side {
            case .guest: yield guest
            case .host: yield host
            }
        }
        _modify {
            switch side {
            case .guest: yield &guest
            case .host: yield &host
            }
        }
    }

    // MARK: Time

    /// Moves the clock.
    public mutating func advance(byNanoseconds nanoseconds: UInt64) { now = now.advanced(byNanoseconds: nanoseconds) }

    /// Moves the clock, never back.
    public mutating func advance(to instant: Instant) { now = max(now, instant) }

    /// The earliest deadline of both endpoints.
    public var nextDeadline: Instant? {
        guard let left = guest.nextDeadline else { return host.nextDeadline }
        guard let right = host.nextDeadline else { return left }
        return min(left, right)
    }

    /// A timer of a side that has run out.
    public mutating func expire(_ side: Side) -> Expiry? {
        let instant = now
        return self[side].expire(now: instant)
    }

    // MARK: Packets

    /// Packets on their way, both ways.
    public var flightCount: Int { toGuest.count + toHost.count }

    /// Takes the next control packet of a side and sends it on its way.
    public mutating func fetchControl(_ side: Side, latency: UInt64 = 0) -> PacketHeader? {
        guard let header = self[side].nextControlPacket() else { return nil }
        let isLost = losesCreditRequests && header.operation == .creditRequest
        send(header, [], from: side, latency: latency, isLost: isLost)
        return header
    }

    /// Takes the next packet with payload of a connection and sends it on its way; `payload` gives the bytes.
    public mutating func fetchPacket(
        _ side: Side, _ id: ConnectionID, offering: Int, capacity: Int, latency: UInt64 = 0,
        payload: (Int) -> [UInt8]
    ) -> OutgoingPacket? {
        guard let packet = self[side].nextPacket(id, offering: offering, capacity: capacity) else { return nil }
        switch packet.payload {
        case .none: send(packet.header, [], from: side, latency: latency)
        case .application(let byteCount): send(packet.header, payload(byteCount), from: side, latency: latency)
        case .marker(let marker):
            var bytes = [UInt8](repeating: 0, count: SequenceHeader.byteCount)
            bytes.withUnsafeMutableBytes { marker.write(to: $0) }
            send(packet.header, bytes, from: side, latency: latency)
        }
        return packet
    }

    /// Delivers the oldest packet to a side, if its time has come and the endpoint takes one.
    public mutating func deliver(to side: Side) -> Delivery? {
        let instant = now
        guard self[side].canReceive, let flight = takeFlight(to: side) else { return nil }
        let isMarker = flight.header.operation == .sequenceBegin || flight.header.operation == .sequenceEnd
        let marker = isMarker ? flight.payload.withUnsafeBytes { SequenceHeader($0) } : nil
        let reception = self[side].receive(flight.header, marker: marker, now: instant)
        return Delivery(header: flight.header, payload: flight.payload, reception: reception)
    }

    /// Puts a packet on its way to a side as if its peer had sent it.
    public mutating func inject(_ header: PacketHeader, to side: Side) {
        send(header, [], from: side.other, latency: 0)
    }

    /// Carries control packets to and fro until both sides are silent; what each side saw, in order.
    public mutating func settle() -> [(side: Side, delivery: Delivery)] {
        var seen: [(side: Side, delivery: Delivery)] = []
        var isSilent = false
        while !isSilent {
            isSilent = true
            for side in Side.allCases {
                while fetchControl(side) != nil { isSilent = false }
                while let delivery = deliver(to: side) {
                    seen.append((side, delivery))
                    isSilent = false
                }
            }
        }
        return seen
    }

    private mutating func takeFlight(to side: Side) -> Flight? {
        switch side {
        case .guest:
            guard let first = toGuest.first, first.arrival <= now else { return nil }
            return toGuest.removeFirst()
        case .host:
            guard let first = toHost.first, first.arrival <= now else { return nil }
            return toHost.removeFirst()
        }
    }

    private mutating func send(
        _ header: PacketHeader, _ payload: [UInt8], from side: Side, latency: UInt64, isLost: Bool = false
    ) {
        packetCount += 1
        trace(header, from: side)
        guard !isLost else { return }
        let last = side == .guest ? toHost.last?.arrival : toGuest.last?.arrival
        let arrival = max(now.advanced(byNanoseconds: latency), last ?? now)
        let flight = Flight(arrival: arrival, header: header, payload: payload)
        if side == .guest { toHost.append(flight) } else { toGuest.append(flight) }
    }

    private mutating func trace(_ header: PacketHeader, from side: Side) {
        mix(now.nanoseconds)
        mix(UInt64(side.rawValue) << 32 | UInt64(header.operation.rawValue) << 16 | UInt64(header.type.rawValue))
        mix(UInt64(header.sourcePort) << 32 | UInt64(header.destinationPort))
        mix(UInt64(header.payloadByteCount) << 32 | UInt64(header.flags))
        mix(UInt64(header.bufferAllocation) << 32 | UInt64(header.forwardedCount))
    }

    private mutating func mix(_ word: UInt64) {
        traceHash = (traceHash ^ word) &* 0x0000_0100_0000_01b3
        traceHash ^= traceHash >> 29
    }
}
