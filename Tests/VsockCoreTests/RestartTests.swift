// SPDX-License-Identifier: Apache-2.0
//
// What a device and a socket layer rely on between connections and records: a new driver, a record given up, credit
// that is awaited for more than one packet.

import Testing
import VsockTestSupport
import VsockWire

@testable import VsockCore

@Suite("Restart")
struct RestartTests {
    @Test("a new driver finds no connection, the listeners, and the framing that it has negotiated")
    func restart() throws {
        var host = Endpoint(.host(.rfcV5))
        let old = try host.acceptConnection(from: PacketBuilder(port: 7))
        host.restart(framing: .standard)
        let (exists, count, framing) = (host.exists(old), host.connectionCount, host.configuration.framing)
        #expect(!exists && count == 0 && framing == .standard)
        #expect(host.nextControlPacket() == nil, "the old driver is told nothing")
        let new = try host.acceptConnection(from: PacketBuilder(port: 7))
        #expect(new != old, "a name from before stays stale")
    }

    @Test("a record that is given up ends without its marker, and the next one begins anew")
    func abandonedRecord() throws {
        var host = Endpoint(.host(.rfcV5))
        let id = try host.acceptConnection(from: PacketBuilder(type: .seqpacket))
        try host.beginRecord(id, byteCount: 100, endOfRecord: true)
        let first = (0..<2).map { _ in host.nextPacket(id, offering: 0, capacity: 30)?.header.operation }
        #expect(first == [.sequenceBegin, .readWrite])
        host.abandonRecord(id)
        let isSending = host.isSendingRecord(id)
        #expect(!isSending && host.nextPacket(id, offering: 0, capacity: 30) == nil)
        try host.beginRecord(id, byteCount: 0, endOfRecord: true)
        let next = (0..<2).map { _ in host.nextPacket(id, offering: 0, capacity: 30)?.header.operation }
        #expect(next == [.sequenceBegin, .sequenceEnd])
        host.abort(id)
        host.abandonRecord(id)
        let exists = host.exists(id)
        #expect(!exists)
    }

    @Test("a sender that needs several packets' room at once is woken when there is all of it")
    func awaitedCredit() throws {
        var host = Endpoint(.host())
        var peer = PacketBuilder()
        peer.bufferAllocation = 1000
        let id = try host.acceptConnection(from: peer)
        let fits = host.hasCredit(id, byteCount: 1000, packetCount: 1)
        #expect(fits)
        #expect(host.nextPacket(id, offering: 600, capacity: 600)?.header.payloadByteCount == 600)
        let fitsStill = host.hasCredit(id, byteCount: 800, packetCount: 2)
        #expect(!fitsStill)
        peer.forwardedCount = 300
        _ = host.receive(peer.packet(.creditUpdate))
        #expect(host.nextWritable() == nil, "700 bytes are not 800")
        peer.forwardedCount = 600
        _ = host.receive(peer.packet(.creditUpdate))
        #expect(host.nextWritable() == id)
        host.abort(id)
        let fitsNobody = host.hasCredit(id, byteCount: 1, packetCount: 1)
        #expect(!fitsNobody)
    }

    @Test("the earlier of two deadlines is the one that is set")
    func earliest() {
        let (soon, late) = (Instant(nanoseconds: 1), Instant(nanoseconds: 2))
        #expect(Instant.earliest(late, soon) == soon && Instant.earliest(nil, late) == late)
        #expect(Instant.earliest(soon, nil) == soon && Instant.earliest(nil, nil) == nil)
    }
}
