// SPDX-License-Identifier: Apache-2.0
//
// A guest may send anything. The endpoint must neither trap nor grow, while its owner uses it as documented.

import Testing
import VsockTestSupport
import VsockWire

@testable import VsockCore

@Suite("Garbage")
struct GarbageTests {
    /// A hostile peer and an owner who does what a device does, and odd things.
    struct Storm: ~Copyable {
        var endpoint: Endpoint
        var random: PRNG
        var now: UInt64 = 0

        init(seed: UInt64, framing: RecordFraming) throws {
            random = PRNG(seed: seed)
            var configuration = EndpointConfiguration.host(framing)
            configuration.maximumConnectionCount = 32
            configuration.maximumReplyCount = 8
            configuration.bufferByteCount = random.pick([1, 100, 262_144, .max])
            configuration.ephemeralPorts = 0...5
            endpoint = Endpoint(configuration)
            try endpoint.listen(.stream, port: 1, backlog: 4)
            try endpoint.listen(.seqpacket, port: 2, backlog: 4)
            if random.chance(percent: 50) { endpoint.askForUnboundPorts() }
        }

        mutating func word() -> UInt32 {
            switch random.below(4) {
            case 0: UInt32(random.below(16))
            case 1: UInt32.max - UInt32(random.below(16))
            case 2: UInt32(random.below(300_000))
            default: UInt32(truncatingIfNeeded: random.next())
            }
        }

        /// Mostly plausible, so that it gets past the first checks.
        mutating func header() -> PacketHeader {
            let isPlausible = random.chance(percent: 95)
            let type = random.chance(percent: 95) ? UInt16(1 + random.below(2)) : UInt16(truncatingIfNeeded: word())
            let operation = random.chance(percent: 95) ? UInt16(random.below(11)) : UInt16(truncatingIfNeeded: word())
            return PacketHeader(
                sourceCID: isPlausible ? 3 : random.next() >> UInt64(random.below(64)),
                destinationCID: isPlausible ? 2 : random.next() >> UInt64(random.below(64)),
                sourcePort: UInt32(random.below(6)), destinationPort: UInt32(random.below(6)),
                payloadByteCount: word(), type: SocketType(rawValue: type), operation: Operation(rawValue: operation),
                flags: word(), bufferAllocation: word(), forwardedCount: word())
        }

        mutating func receive() {
            let header = header()
            let marker = SequenceHeader(messageCount: word(), messageByteCount: word())
            let instant = Instant(nanoseconds: now)
            let reception = endpoint.receive(header, marker: random.chance(percent: 50) ? marker : nil, now: instant)
            switch reception {
            case .accepted where random.chance(percent: 70): endpoint.takeAccepted(port: header.destinationPort)
            case .requested(let id) where random.chance(percent: 50): endpoint.accept(id)
            case .requested(let id) where random.chance(percent: 50): endpoint.refuse(id)
            default: break
            }
        }

        mutating func command() {
            let instant = Instant(nanoseconds: now)
            let ids = endpoint.connectionIDs
            if ids.isEmpty || random.chance(percent: 5) {
                let address = VsockAddress(cid: 3, port: VsockAddress.Port(rawValue: UInt32(random.below(6))))
                let type: SocketType = random.chance(percent: 50) ? .stream : .seqpacket
                let port = random.chance(percent: 50) ? nil : UInt32(random.below(6))
                _ = try? endpoint.connect(type, to: address, from: port, now: instant)
                return
            }
            let id = random.pick(ids)
            switch random.below(12) {
            case 0: endpoint.close(id, now: instant)
            case 1: endpoint.abort(id)
            case 2: endpoint.shutdown(id, ShutdownFlags(rawValue: UInt32(random.below(4))))
            case 3: endpoint.accept(id)
            case 4 where !endpoint.isSendingRecord(id):
                try? endpoint.beginRecord(id, byteCount: Int(word()), endOfRecord: random.chance(percent: 50))
            case 5...8: _ = endpoint.nextPacket(id, offering: random.below(1000), capacity: random.below(1000))
            case 9: _ = endpoint.sendableByteCount(id)
            default:
                // The one promise that the owner keeps: it consumes no more than it was given.
                let received = endpoint.snapshot(id).map { Int($0.credit.receivedByteCount) } ?? 0
                endpoint.consume(id, byteCount: random.below(received + 1))
            }
        }

        mutating func step() {
            receive()
            if random.chance(percent: 40) { command() }
            for _ in 0..<random.below(3) { _ = endpoint.nextControlPacket() }
            while random.chance(percent: 30), endpoint.nextWritable() != nil {}
            now = now &+ UInt64(random.below(20_000_000))
            if random.chance(percent: 5) { while endpoint.expire(now: Instant(nanoseconds: now)) != nil {} }
            if random.chance(percent: 1), random.chance(percent: 10) { endpoint.forgetAll() }
        }
    }

    @Test("leaves an endpoint standing and bounded", arguments: [RecordFraming.standard, .rfcV5, .none], 0..<9)
    func endpointStands(framing: RecordFraming, seed: UInt64) throws {
        var storm = try Storm(seed: seed, framing: framing)
        for step in 0..<4000 {
            storm.step()
            let isBounded =
                storm.endpoint.connections.count <= 32 && storm.endpoint.flows.count <= 32
                && storm.endpoint.connectionCount == storm.endpoint.flows.count
                && storm.endpoint.controlQueue.count <= 32 && storm.endpoint.writableQueue.count <= 32
                && storm.endpoint.replies.count <= 16
            #expect(isBounded, "seed \(seed), step \(step)")
            if !isBounded { return }
        }
        // Afterwards it can be emptied: all is closed, all timers run out, all is fetched.
        for id in storm.endpoint.connectionIDs { storm.endpoint.abort(id) }
        while storm.endpoint.expire(now: Instant(nanoseconds: .max)) != nil {}
        _ = storm.endpoint.allControlPackets()
        let rest = (storm.endpoint.connectionCount, storm.endpoint.flows.count, storm.endpoint.nextDeadline)
        #expect(rest.0 == 0 && rest.1 == 0 && rest.2 == nil, "seed \(seed)")
        let counters = storm.endpoint.counters
        #expect(counters.connectionsOpened == counters.connectionsClosed && counters.connectionsOpened > 0)
    }

    @Test("of random bytes is dropped or refused")
    func randomBytes() {
        var endpoint = Endpoint(EndpointConfiguration(localCID: .host, peerCID: nil, framing: .rfcV5))
        var random = PRNG(seed: 99)
        for _ in 0..<2000 {
            let bytes = random.bytes(PacketHeader.byteCount)
            guard let header = bytes.withUnsafeBytes({ PacketHeader($0) }) else { continue }
            let reception = endpoint.receive(header)
            guard case .dropped = reception else {
                Issue.record("\(reception) for \(hexText(bytes))")
                continue
            }
            _ = endpoint.allControlPackets()
        }
        #expect(endpoint.connectionCount == 0)
    }
}
