// SPDX-License-Identifier: Apache-2.0
//
// Calls that the API joins into one, and settings that it does not show: the sockets below it.

import Synchronization
import Testing
import VsockCore
import VsockWire

@testable import VsockTransport

@Suite("Sockets below the API")
struct LowLevelTests {
    private let loopback = Loopback(reservesLowPorts: true)
    private let silence = Silence()

    @Test("states: EINVAL, ENOTCONN, EISCONN, EACCES")
    func states() throws {
        let socket = loopback.makeSocket(.stream)
        #expect(throws: SocketError.invalidArgument) { try socket.listen(backlog: 1) }
        #expect(throws: SocketError.notConnected) { try socket.shutdown(.both) }
        #expect(throws: SocketError.notConnected) { try [1].withUnsafeBytes { _ = try socket.send($0) } }
        #expect(throws: SocketError.invalidArgument) { _ = try socket.accept(doesNotWait: true) }
        #expect(throws: SocketError.accessDenied) { try socket.bind(to: VsockAddress(cid: .any, port: 1023)) }
        try socket.bind(to: VsockAddress(cid: .any, port: 1024))
        #expect(throws: SocketError.invalidArgument) { try socket.bind(to: VsockAddress(cid: .any, port: 1025)) }
        try socket.listen(backlog: 1)
        let address = VsockAddress(cid: .local, port: 1024)
        #expect(throws: SocketError.invalidArgument) { try socket.connect(to: address) }
        #expect(socket.readiness == [])
        #expect(throws: SocketError.wouldBlock) { _ = try socket.accept(doesNotWait: true) }
        let client = loopback.makeSocket(.stream)
        try client.connect(to: address)
        #expect(socket.poll(.readable, timeoutNanoseconds: 0) == .readable)
        #expect(throws: SocketError.alreadyConnected) { try client.connect(to: address) }
        socket.close()
        #expect(throws: SocketError.badDescriptor) { try socket.listen(backlog: 1) }
        let refused = loopback.makeSocket(.stream)
        #expect(throws: SocketError.connectionReset) { try refused.connect(to: address) }
        // A refused socket may try again.
        #expect(throws: SocketError.connectionReset) { try refused.connect(to: address) }
    }

    /// Takes packets and answers nothing by itself.
    private final class Silence: PacketCarrier {
        var usualCapacity: Int { 65536 }
        func capacity(wanting byteCount: Int) -> Int? { 65536 }
        func commit(_ header: PacketHeader, _ payload: UnsafeRawBufferPointer) {}
        func flush() {}
        func reaches(_ cid: VsockAddress.ContextID) -> Bool { true }
    }

    @Test("connecting without waiting: EINPROGRESS, EALREADY, and EISCONN once the answer has come")
    func connectWithoutWaiting() throws {
        let table = SocketTable(
            EndpointConfiguration(localCID: 3, peerCID: nil, framing: .standard), isReady: true)
        table.carrier = silence
        let socket = table.makeSocket(.stream)
        try socket.bind(to: VsockAddress(cid: .any, port: 5000))
        let host = VsockAddress(cid: .host, port: 1234)
        #expect(throws: SocketError.inProgress) { try socket.connect(to: host, doesNotWait: true) }
        #expect(throws: SocketError.alreadyInProgress) { try socket.connect(to: host, doesNotWait: true) }
        let response = PacketHeader(
            sourceCID: 2, destinationCID: 3, sourcePort: 1234, destinationPort: 5000, type: .stream,
            operation: .response, bufferAllocation: 262_144)
        table.lock.withLock { table.deliver(response, UnsafeRawBufferPointer(start: nil, count: 0)) }
        #expect(socket.readiness == .writable)
        #expect(throws: SocketError.alreadyConnected) { try socket.connect(to: host) }
    }

    private final class Counter: PacketTap {
        let operations = Mutex<[UInt16]>([])
        func packet(_ header: PacketHeader, _ payload: PacketPayload, isOutgoing: Bool) {
            operations.withLock { $0.append(header.operation.rawValue) }
        }
    }

    @Test("a tap sees every packet of a connection once")
    func tap() throws {
        let counter = Counter()
        loopback.setTap(counter)
        let listener = loopback.makeSocket(.seqpacket)
        try listener.bind(to: VsockAddress(cid: .any, port: 2000))
        try listener.listen(backlog: 1)
        let client = loopback.makeSocket(.seqpacket)
        try client.connect(to: VsockAddress(cid: .local, port: 2000))
        try [1, 2].withUnsafeBytes { _ = try client.send($0) }
        client.close()
        let server = try listener.accept()
        var buffer: [UInt8] = [0, 0]
        let result = try buffer.withUnsafeMutableBytes { try server.receive(into: $0) }
        #expect(result.count == 2)
        // REQUEST, RESPONSE, RW, SHUTDOWN, and the RST when all is read.
        #expect(counter.operations.withLock { $0 } == [1, 2, 5, 4, 3])
    }
}
