// SPDX-License-Identifier: Apache-2.0
//
// An endpoint with a peer that sends any packet at any time and an owner that does everything that an owner may. Few
// ports, few slots and small buffers, so that connections meet each other, and every limit is reached.

import VsockCore
import VsockWire

enum CoreFuzz {
    static func run(_ input: inout FuzzInput) throws(FuzzFinding) {
        var storm = CoreStorm(&input)
        while !input.isEmpty { try storm.step(&input) }
        try storm.finish()
    }
}

private struct CoreStorm: ~Copyable {
    private static let connectionLimit = 8
    private static let replyLimit = 4

    var endpoint: Endpoint
    var now: UInt64 = 0
    /// The largest receive buffer that a peer can have been told of.
    var largestBuffer: UInt32

    init(_ input: inout FuzzInput) {
        let options = input.byte()
        var configuration = EndpointConfiguration(
            localCID: .host, peerCID: options & 1 == 0 ? .init(rawValue: 3) : nil,
            framing: [.standard, .rfcV5, .none, .standard][Int(options >> 1 & 3)])
        configuration.maximumConnectionCount = Self.connectionLimit
        configuration.maximumReplyCount = Self.replyLimit
        configuration.bufferByteCount = [262_144, 64, 0, .max][Int(options >> 3 & 3)]
        configuration.limitsUnreadPackets = options & 0x20 == 0
        configuration.answersForAnyCID = options & 0x40 != 0
        configuration.ephemeralPorts = 0...3
        largestBuffer = configuration.bufferByteCount
        endpoint = Endpoint(configuration)
        try? endpoint.listen(.stream, port: 1, backlog: 2)
        try? endpoint.listen(.seqpacket, port: 2, backlog: 2)
        if options & 0x80 != 0 { endpoint.askForUnboundPorts() }
    }

    mutating func step(_ input: inout FuzzInput) throws(FuzzFinding) {
        switch input.below(8) {
        case 0, 1, 2: try receive(&input)
        case 3, 4: try command(&input)
        case 5:
            for _ in 0...input.below(4) { if let header = endpoint.nextControlPacket() { try check(header) } }
        case 6: while endpoint.nextWritable() != nil {}
        default:
            now = now &+ UInt64(input.integer(UInt16.self)) << UInt64(input.below(24))
            while endpoint.expire(now: Instant(nanoseconds: now)) != nil {}
        }
        try checkBounds()
    }

    /// Everything can be ended, and then nothing is left.
    mutating func finish() throws(FuzzFinding) {
        for id in endpoint.connectionIDs { endpoint.abort(id) }
        while endpoint.expire(now: Instant(nanoseconds: .max)) != nil {}
        while endpoint.nextControlPacket() != nil {}
        let rest = (endpoint.connectionCount, endpoint.hasControlPackets)
        try expect(rest.0 == 0 && !rest.1, "\(rest.0) connections are left, packets \(rest.1)")
        let counters = endpoint.counters
        try expect(counters.connectionsOpened == counters.connectionsClosed, "what was opened is closed")
    }

    private mutating func receive(_ input: inout FuzzInput) throws(FuzzFinding) {
        let shape = input.byte()
        let isPlausible = shape & 7 != 0
        let header = PacketHeader(
            sourceCID: isPlausible ? 3 : input.number(), destinationCID: isPlausible ? 2 : input.number(),
            sourcePort: UInt32(input.below(4)), destinationPort: UInt32(input.below(4)),
            payloadByteCount: shape & 8 == 0 ? UInt32(input.byte()) : UInt32(truncatingIfNeeded: input.number()),
            type: SocketType(rawValue: shape & 0x70 == 0 ? input.integer() : 1 + UInt16(shape >> 7)),
            operation: Operation(rawValue: UInt16(input.below(12))),
            flags: shape & 0x10 == 0 ? UInt32(input.byte() & 7) : UInt32(truncatingIfNeeded: input.number()),
            bufferAllocation: UInt32(truncatingIfNeeded: input.number()),
            forwardedCount: UInt32(truncatingIfNeeded: input.number()))
        var marker: SequenceHeader?
        if header.isMarker, input.below(8) != 0 {
            marker = SequenceHeader(
                messageCount: UInt32(truncatingIfNeeded: input.number()),
                messageByteCount: UInt32(truncatingIfNeeded: input.number()))
        }
        guard endpoint.canReceive else { return }
        let reception = endpoint.receive(header, marker: marker, now: Instant(nanoseconds: now))
        switch reception {
        case .accepted: if input.flag() { endpoint.takeAccepted(port: header.destinationPort) }
        case .requested(let id): if input.flag() { endpoint.accept(id) } else { endpoint.refuse(id) }
        case .payload(let id, _), .connected(let id), .peerShutdown(let id, _):
            let exists = endpoint.exists(id)
            try expect(exists, "\(reception) names a connection that exists")
        case .connectFailed(let id, _), .reset(let id, _):
            let exists = endpoint.exists(id)
            try expect(!exists, "\(reception) names a connection that has ended")
        case .handled, .dropped: break
        }
    }

    private mutating func command(_ input: inout FuzzInput) throws(FuzzFinding) {
        let instant = Instant(nanoseconds: now)
        let ids = endpoint.connectionIDs
        let operation = input.below(18)
        if ids.isEmpty || operation == 0 {
            let address = VsockAddress(cid: .init(rawValue: 3), port: .init(rawValue: UInt32(input.below(4))))
            let port = input.flag() ? nil : UInt32(input.below(4))
            _ = try? endpoint.connect(input.flag() ? .stream : .seqpacket, to: address, from: port, now: instant)
            return
        }
        let id = input.pick(ids)
        switch operation {
        case 1: endpoint.close(id, now: instant)
        case 2: endpoint.abort(id)
        case 3: endpoint.shutdown(id, ShutdownFlags(rawValue: UInt32(input.below(4))))
        case 4: endpoint.accept(id)
        case 5: endpoint.refuse(id)
        case 6, 7:
            let isSending = endpoint.isSendingRecord(id)
            guard !isSending else { return }
            let byteCount = Int(UInt32(truncatingIfNeeded: input.number()))
            try? endpoint.beginRecord(id, byteCount: byteCount, endOfRecord: input.flag())
        case 8...11: try send(id, &input)
        case 12: _ = endpoint.hasCredit(id, byteCount: input.below(5000), packetCount: input.below(10))
        case 13:
            let byteCount = UInt32(truncatingIfNeeded: input.number())
            largestBuffer = max(largestBuffer, byteCount)
            endpoint.setBuffer(id, byteCount: byteCount)
        case 14:
            let framing = endpoint.configuration.framing
            if framing == .rfcV5 { endpoint.abandonRecord(id) }
        case 15:
            if input.below(16) == 0 { endpoint.restart(framing: input.pick([.standard, .rfcV5, .none])) }
        default:
            let received = endpoint.snapshot(id).map { Int($0.credit.receivedByteCount) } ?? 0
            endpoint.consume(id, byteCount: min(received, Int(UInt32(truncatingIfNeeded: input.number()))))
        }
    }

    private mutating func send(_ id: ConnectionID, _ input: inout FuzzInput) throws(FuzzFinding) {
        let before = endpoint.snapshot(id)
        let offered = input.below(70_000)
        let capacity = input.below(70_000)
        guard let packet = endpoint.nextPacket(id, offering: offered, capacity: capacity) else { return }
        guard let before else { throw FuzzFinding("a packet without a connection") }
        let byteCount = Int(packet.header.payloadByteCount)
        try expect(
            byteCount <= capacity && byteCount <= before.credit.peerFreeByteCount
                && byteCount <= PacketHeader.maximumPayloadByteCount, "a packet fits room, credit and limit")
        try expect(before.state == .established && !before.localShutdown.contains(.send), "only a connection sends")
        try expect(!before.peerShutdown.contains(.receive), "nothing is sent to who does not receive")
        switch packet.payload {
        case .none: try expect(byteCount == 0, "no payload, no bytes")
        case .application(let count):
            try expect(
                count == byteCount && (before.type == .seqpacket || count <= offered), "bytes are the application's")
        case .marker: try expect(byteCount == SequenceHeader.byteCount && packet.header.isMarker, "a marker is one")
        }
        try check(packet.header)
    }

    private func check(_ header: PacketHeader) throws(FuzzFinding) {
        let answersForAny = endpoint.configuration.answersForAnyCID
        try expect(header.sourceCID == 2 || answersForAny || header.operation == .reset, "packets are this side's")
        try expect(header.operation != .invalid && !header.description.isEmpty, "packets have an operation")
    }

    private func checkBounds() throws(FuzzFinding) {
        let count = endpoint.connectionCount
        try expect(count <= Self.connectionLimit, "\(count) connections are too many")
        for id in endpoint.connectionIDs {
            guard let connection = endpoint.snapshot(id) else { continue }
            let credit = connection.credit
            try expect(
                credit.receivedByteCount <= largestBuffer && credit.peerFreeByteCount >= 0
                    && credit.peerFreeByteCount <= Int(UInt32.max), "credit is kept")
        }
    }
}
