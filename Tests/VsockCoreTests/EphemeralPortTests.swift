// SPDX-License-Identifier: Apache-2.0
//
// Local ports of connections that do not name one.

import Testing
import VsockCore
import VsockTestSupport
import VsockWire

@Suite("Ephemeral ports")
struct EphemeralPortTests {
    static let start = Instant(nanoseconds: 0)
    static let address = VsockAddress(cid: 3, port: 9)

    static func endpoint(_ ports: ClosedRange<UInt32>) -> Endpoint {
        var configuration = EndpointConfiguration.host()
        configuration.ephemeralPorts = ports
        return Endpoint(configuration)
    }

    static func connect(_ endpoint: inout Endpoint) throws -> (id: ConnectionID, port: UInt32?) {
        let id = try endpoint.connect(.stream, to: address, now: start)
        return (id, endpoint.snapshot(id)?.localPort)
    }

    @Test("are taken in order, begin again at the end of the range and skip those in use")
    func wrap() throws {
        var endpoint = Self.endpoint(10...13)
        let connections = try (0..<4).map { _ in try Self.connect(&endpoint) }
        #expect(connections.map(\.port) == [10, 11, 12, 13])
        #expect(throws: SocketError.addressInUse) { try Self.connect(&endpoint) }
        endpoint.close(connections[2].id, now: Self.start)
        let next = try Self.connect(&endpoint)
        #expect(next.port == 12)
        #expect(throws: SocketError.addressInUse) { try Self.connect(&endpoint) }
    }

    @Test("wrap at the end of all ports without overflow")
    func lastPorts() throws {
        var endpoint = Self.endpoint(.max - 1 ... .max)
        let ports = try (0..<2).map { _ in try Self.connect(&endpoint).port }
        #expect(ports == [.max - 1, .max])
        #expect(throws: SocketError.addressInUse) { try Self.connect(&endpoint) }
    }

    @Test("skip ports that are listened on, also when there is no connection yet")
    func listenersAreSkipped() throws {
        var endpoint = Self.endpoint(10...13)
        for port in 10..<13 as Range<UInt32> { try endpoint.listen(.stream, port: port, backlog: 1) }
        let connection = try Self.connect(&endpoint)
        #expect(connection.port == 13)
        #expect(throws: SocketError.addressInUse) { try Self.connect(&endpoint) }
    }

    @Test("serve one connection to each port of the peer")
    func portsAreSharedBetweenPeers() throws {
        var endpoint = Self.endpoint(10...10)
        for peerPort in 0..<5 as Range<UInt32> {
            let address = VsockAddress(cid: 3, port: VsockAddress.Port(rawValue: peerPort))
            _ = try endpoint.connect(.stream, to: address, now: Self.start)
        }
        #expect(endpoint.connectionCount == 5)
    }
}
