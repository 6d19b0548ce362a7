// SPDX-License-Identifier: Apache-2.0
//
// virtio 1.3 "Socket Device / Connection Establishment and Termination": how connections begin.

import Testing
import VsockCore
import VsockTestSupport
import VsockWire

@Suite("Handshake")
struct HandshakeTests {
    @Test("is REQUEST and RESPONSE, both with credit", arguments: [SocketType.stream, .seqpacket])
    func requestAndResponse(type: SocketType) throws {
        var pair = EndpointPair()
        try pair[.host].listen(type, port: 1234, backlog: 1)
        let id = try pair[.guest].connect(
            type, to: VsockAddress(cid: .host, port: 1234), from: 5000, now: Instant(nanoseconds: 0))
        let seen = pair.settle()
        try #require(seen.count == 2)

        let request = seen[0].delivery.header
        let expectedRequest = PacketHeader(
            sourceCID: 3, destinationCID: 2, sourcePort: 5000, destinationPort: 1234, type: type, operation: .request,
            bufferAllocation: 262_144)
        #expect(request == expectedRequest)
        guard case .accepted(let accepted) = seen[0].delivery.reception else {
            Issue.record("\(seen[0].delivery.reception)")
            return
        }
        let response = seen[1].delivery.header
        let expectedResponse = PacketHeader(
            sourceCID: 2, destinationCID: 3, sourcePort: 1234, destinationPort: 5000, type: type, operation: .response,
            bufferAllocation: 262_144)
        #expect(response == expectedResponse)
        #expect(seen[1].delivery.reception == .connected(id))

        let snapshots = (guest: pair[.guest].snapshot(id), host: pair[.host].snapshot(accepted))
        let guest = try #require(snapshots.guest)
        #expect(guest.type == type && guest.localPort == 5000 && guest.peerPort == 1234 && guest.peerCID == 2)
        #expect(guest.isEstablished && guest.credit.peerFreeByteCount == 262_144)
        let host = try #require(snapshots.host)
        #expect(host.type == type && host.localPort == 1234 && host.peerPort == 5000 && host.peerCID == 3)
        #expect(host.isEstablished && host.credit.peerFreeByteCount == 262_144)
        let deadline = pair.nextDeadline
        #expect(deadline == nil)
    }

    @Test("waits for the caller where it asks to be asked; nothing crosses before")
    func callerAccepts() throws {
        var host = Endpoint(.host())
        host.askForUnboundPorts()
        let peer = PacketBuilder()
        guard case .requested(let id) = host.receive(peer.packet(.request)) else {
            Issue.record("not requested")
            return
        }
        let early = host.nextPacket(id, offering: 10, capacity: 100)
        let silence = host.allControlPackets()
        #expect(early == nil && silence.isEmpty)
        let before = host.snapshot(id)
        #expect(before?.isEstablished == false)
        host.accept(id)
        let packets = host.allControlPackets()
        #expect(packets.map(\.operation) == [.response])
        let packet = host.nextPacket(id, offering: 10, capacity: 100)
        #expect(packet?.payload == .application(10))
        // A second time there is nothing to accept or refuse.
        host.accept(id)
        host.refuse(id)
        let rest = host.allControlPackets()
        let exists = host.exists(id)
        #expect(rest.isEmpty && exists)
    }

    @Test("fails with ECONNRESET when the caller refuses")
    func callerRefuses() throws {
        var pair = EndpointPair()
        pair[.host].askForUnboundPorts()
        let id = try pair[.guest].connect(
            .stream, to: VsockAddress(cid: .host, port: 1), now: Instant(nanoseconds: 0))
        guard case .requested(let requested)? = pair.settle().first?.delivery.reception else {
            Issue.record("not requested")
            return
        }
        pair[.host].refuse(requested)
        let seen = pair.settle()
        #expect(seen.map(\.delivery.reception) == [.connectFailed(id, .connectionReset)])
        let counts = (pair[.guest].connectionCount, pair[.host].connectionCount)
        #expect(counts == (0, 0))
    }

    @Test("times out after two seconds with an RST to the peer")
    func connectTimesOut() throws {
        var guest = Endpoint(.guest())
        let start = Instant(nanoseconds: 1000)
        let id = try guest.connect(.stream, to: VsockAddress(cid: .host, port: 1), now: start)
        let request = guest.allControlPackets()
        #expect(request.map(\.operation) == [.request])
        let end = start.advanced(byNanoseconds: 2_000_000_000)
        let deadline = guest.nextDeadline
        #expect(deadline == end)
        let early = guest.expire(now: Instant(nanoseconds: end.nanoseconds - 1))
        #expect(early == nil)
        let expiry = guest.expire(now: end)
        #expect(expiry == .connectTimedOut(id))
        let exists = guest.exists(id)
        #expect(!exists)
        let packets = guest.allControlPackets()
        #expect(packets.map(\.operation) == [.reset])
        let rest = (guest.connectionCount, guest.nextDeadline)
        #expect(rest.0 == 0 && rest.1 == nil)
        // The RESPONSE that comes too late finds no one.
        let late = guest.receive(PacketBuilder(from: 2, port: 1, to: 3, port: request[0].sourcePort).packet(.response))
        #expect(late == .dropped(.noConnection))
    }

    @Test("leaves no trace when it is given up before the REQUEST was taken")
    func closedBeforeRequest() throws {
        var guest = Endpoint(.guest())
        let start = Instant(nanoseconds: 0)
        let id = try guest.connect(.stream, to: VsockAddress(cid: .host, port: 1), now: start)
        guest.close(id, now: start)
        let packets = guest.allControlPackets()
        let rest = (guest.connectionCount, guest.nextDeadline)
        #expect(packets.isEmpty && rest.0 == 0 && rest.1 == nil)
    }

    @Test("is taken back with an RST when it is given up after the REQUEST")
    func closedAfterRequest() throws {
        var pair = EndpointPair()
        try pair[.host].listen(.stream, port: 1, backlog: 1)
        let start = Instant(nanoseconds: 0)
        let id = try pair[.guest].connect(.stream, to: VsockAddress(cid: .host, port: 1), now: start)
        _ = pair.fetchControl(.guest)
        pair[.guest].close(id, now: start)
        let seen = pair.settle()
        // The host has accepted when the RST comes; its RESPONSE crosses the RST.
        let receptions = seen.map(\.delivery.reception)
        #expect(receptions.contains { if case .reset(_, .byPeer) = $0 { true } else { false } })
        let counts = (pair[.guest].connectionCount, pair[.host].connectionCount, pair.flightCount)
        #expect(counts == (0, 0, 0))
    }
}
