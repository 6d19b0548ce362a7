// SPDX-License-Identifier: Apache-2.0
//
// A pair of ports that is used again at once, by the peer or by this side, and names that outlive their connection.

import Testing
import VsockTestSupport
import VsockWire

@testable import VsockCore

@Suite("Reuse of ports and slots")
struct PortReuseTests {
    static let start = Instant(nanoseconds: 0)

    @Test("a REQUEST that overtakes our RST begins a new connection, and the late RST is not sent")
    func requestWhileResetIsPending() throws {
        var host = Endpoint(.host())
        try host.listen(.stream, port: 1234, backlog: 10)
        let peer = PacketBuilder()
        guard case .accepted(let old) = host.receive(peer.packet(.request)) else { return }
        _ = host.allControlPackets()
        host.abort(old)
        let reception = host.receive(peer.packet(.request))
        guard case .accepted(let new) = reception else {
            Issue.record("\(reception)")
            return
        }
        #expect(new.slot == old.slot && new.generation != old.generation)
        let packets = host.allControlPackets()
        #expect(packets.map(\.operation) == [.response])
        let exists = (host.exists(old), host.exists(new))
        #expect(exists == (false, true))
    }

    @Test("the same ports serve one connection after another", arguments: [SocketType.stream, .seqpacket])
    func samePortsAgain(type: SocketType) throws {
        var pair = EndpointPair()
        try pair[.host].listen(type, port: 1, backlog: 1)
        for round in 0..<50 {
            let id = try pair[.guest].connect(
                type, to: VsockAddress(cid: .host, port: 1), from: 5000, now: Self.start)
            let seen = pair.settle()
            guard case .accepted(let accepted)? = seen.first?.delivery.reception else {
                Issue.record("round \(round): \(seen)")
                return
            }
            pair[.host].takeAccepted(port: 1)
            if round % 2 == 0 { pair[.guest].close(id, now: Self.start) } else { pair[.guest].abort(id) }
            _ = pair.settle()
            pair[.host].close(accepted, now: Self.start)
            _ = pair.settle()
            let rest = (pair[.guest].connectionCount, pair[.host].connectionCount)
            #expect(rest == (0, 0), "round \(round)")
        }
    }

    @Test("a pair of ports in use is EADDRINUSE, also while its RST is pending")
    func portsInUse() throws {
        var guest = Endpoint(.guest())
        let address = VsockAddress(cid: .host, port: 1)
        let id = try guest.connect(.stream, to: address, from: 5000, now: Self.start)
        #expect(throws: SocketError.addressInUse) {
            try guest.connect(.seqpacket, to: address, from: 5000, now: Self.start)
        }
        // Towards another port of the peer it is free.
        _ = try guest.connect(.stream, to: VsockAddress(cid: .host, port: 2), from: 5000, now: Self.start)
        _ = guest.allControlPackets()
        guest.abort(id)
        #expect(throws: SocketError.addressInUse) {
            try guest.connect(.stream, to: address, from: 5000, now: Self.start)
        }
        _ = guest.allControlPackets()
        _ = try guest.connect(.stream, to: address, from: 5000, now: Self.start)
    }

    @Test("a name of a connection that is gone is ignored by every command")
    func staleNames() throws {
        var pair = EndpointPair()
        let old = try pair.establish()
        pair[.guest].abort(old.guest)
        _ = pair.settle()
        let new = try pair.establish()
        #expect(new.guest.slot == old.guest.slot)
        let before = pair[.guest].snapshot(new.guest)

        for id in [old.guest, ConnectionID(slot: -1, generation: 0), ConnectionID(slot: 99, generation: 0)] {
            pair[.guest].accept(id)
            pair[.guest].refuse(id)
            pair[.guest].shutdown(id, .both)
            pair[.guest].consume(id, byteCount: 1000)
            pair[.guest].close(id, now: Self.start)
            pair[.guest].abort(id)
            let packet = pair[.guest].nextPacket(id, offering: 1, capacity: 1)
            let numbers = (
                pair[.guest].sendableByteCount(id), pair[.guest].sendablePacketCount(id),
                pair[.guest].maximumRecordByteCount(id)
            )
            let answers = (pair[.guest].exists(id), pair[.guest].isSendingRecord(id), pair[.guest].snapshot(id))
            #expect(packet == nil && numbers == (0, 0, 0))
            #expect(!answers.0 && !answers.1 && answers.2 == nil)
            let error = #expect(throws: SocketError.self) {
                try pair[.guest].beginRecord(id, byteCount: 1, endOfRecord: false)
            }
            #expect(error == .notConnected)
        }
        let after = pair[.guest].snapshot(new.guest)
        let packets = pair[.guest].allControlPackets()
        #expect(before == after && packets.isEmpty)
    }
}
