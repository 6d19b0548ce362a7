// SPDX-License-Identifier: Apache-2.0
//
// What Linux 6.12 does in details of calls, held for the sockets of a table (af_vsock.c, virtio_transport_common.c).

import Testing
import VsockCore
import VsockTransport
import VsockWire

@Suite("Calls as Linux has them")
struct LinuxCallsTests {
    private let loopback = Loopback()

    private func listener(
        _ type: SocketType = .stream, port: UInt32 = 5, backlog: Int = 2
    ) throws -> any ConnectibleSocket {
        let socket = loopback.makeSocket(type)
        try socket.bind(to: Self.address(port))
        try socket.listen(backlog: backlog)
        return socket
    }

    private static func address(_ port: UInt32) -> VsockAddress {
        VsockAddress(cid: .local, port: VsockAddress.Port(rawValue: port))
    }

    private func pair(_ type: SocketType = .stream) throws -> (any ConnectibleSocket, any ConnectibleSocket) {
        let listener = try listener(type)
        defer { listener.close() }
        let client = loopback.makeSocket(type)
        try client.connect(to: Self.address(5))
        return (client, try listener.accept(doesNotWait: true))
    }

    private func send(_ count: Int, _ socket: any ConnectibleSocket) throws(SocketError) -> Int {
        try [UInt8](repeating: 1, count: count).span.bytes.withUnsafeBytes { (bytes) throws(SocketError) in
            try socket.send(bytes, SendOptions(doesNotWait: true))
        }
    }

    private func receive(
        _ count: Int, _ socket: any ConnectibleSocket, peeks: Bool = false
    ) throws(SocketError) -> Int {
        var buffer = [UInt8](repeating: 0, count: count)
        var span = buffer.mutableSpan
        return try span.withUnsafeMutableBytes { (bytes) throws(SocketError) in
            try socket.receive(into: bytes, ReceiveOptions(peeks: peeks, doesNotWait: true)).count
        }
    }

    // MARK: Connections

    @Test("a connect that does not wait is in progress, and SO_ERROR tells how it has ended")
    func inProgress() throws {
        let listener = try listener()
        let accepted = loopback.makeSocket(.stream)
        #expect(throws: SocketError.inProgress) { try accepted.connect(to: Self.address(5), doesNotWait: true) }
        #expect(accepted.readiness == .writable)
        #expect(accepted.takeError() == nil)
        #expect(throws: SocketError.alreadyConnected) { try accepted.connect(to: Self.address(5), doesNotWait: true) }
        listener.close()
        let refused = loopback.makeSocket(.stream)
        #expect(throws: SocketError.inProgress) { try refused.connect(to: Self.address(5), doesNotWait: true) }
        #expect(refused.readiness == [.writable, .error])
        #expect(refused.takeError() == .connectionReset)
        #expect(refused.readiness == .writable)
    }

    @Test("connect on a used socket: EISCONN, also when the peer has gone; EINVAL after shutdown")
    func used() throws {
        let (client, server) = try pair()
        server.close()
        #expect(throws: SocketError.alreadyConnected) { try client.connect(to: Self.address(5)) }
        try client.shutdown(.send)
        #expect(throws: SocketError.invalidArgument) { try client.connect(to: Self.address(5)) }
    }

    @Test(
        "backlog: one more than was asked for waits; less than zero is the largest",
        arguments: [(0, 1), (2, 3), (-1, 9)])
    func backlog(backlog: Int, count: Int) throws {
        let listener = try listener(backlog: backlog)
        var clients: [any ConnectibleSocket] = []
        for _ in 0..<count {
            let client = loopback.makeSocket(.stream)
            try client.connect(to: Self.address(5))
            clients.append(client)
        }
        guard backlog >= 0 else { return }
        let refused = loopback.makeSocket(.stream)
        #expect(throws: SocketError.connectionReset) { try refused.connect(to: Self.address(5)) }
        _ = try listener.accept()
        try refused.connect(to: Self.address(5))
    }

    @Test("an accepted socket has the listener's sizes and connect timeout, and no other option")
    func inheritance() throws {
        let listener = try listener()
        try listener.set(.bufferSize(8192))
        try listener.set(.connectTimeout(.milliseconds(40)))
        try listener.set(.receiveTimeout(.milliseconds(20)))
        try listener.set(.sendTimeout(.milliseconds(20)))
        try listener.set(.receiveLowWaterMark(10))
        try loopback.makeSocket(.stream).connect(to: Self.address(5))
        let settings = try listener.accept().settings
        #expect(settings.bufferSize == 8192 && settings.connectTimeoutNanoseconds == 40_000_000)
        #expect(settings.receiveTimeoutNanoseconds == 0 && settings.sendTimeoutNanoseconds == 0)
        #expect(settings.receiveLowWaterMark == 1)
    }

    // MARK: Readiness

    @Test("a socket that is not connected is writable; the end of both directions is a hang-up, of one it is not")
    func hangUp() throws {
        #expect(loopback.makeSocket(.stream).readiness == .writable)
        let (client, server) = try pair()
        try server.shutdown(.send)
        #expect(client.readiness == [.readable, .writable, .readHangUp])
        try client.shutdown(.send)
        #expect(client.readiness == [.readable, .readHangUp, .hangUp])
        let (other, closed) = try pair()
        closed.close()
        #expect(other.readiness == [.readable, .writable, .readHangUp, .hangUp])
    }

    // MARK: Data

    @Test("a peek takes what there is, also less than SO_RCVLOWAT")
    func peek() throws {
        let (client, server) = try pair()
        try server.set(.receiveLowWaterMark(10))
        #expect(try send(3, client) == 3)
        #expect(try receive(20, server, peeks: true) == 3)
    }

    @Test("a send that does not wait knows what its peer has read by then", arguments: [SocketType.stream, .seqpacket])
    func credit(type: SocketType) throws {
        let (client, server) = try pair(type)
        #expect(try send(200_000, client) == 200_000)
        #expect(try receive(200_000, server) == 200_000)
        #expect(client.readiness == .writable)
        #expect(try send(262_144, client) == 262_144)
        #expect(try receive(262_144, server) == 262_144)
        #expect(client.readiness == .writable)
    }

    @Test("a buffer that is made smaller than what it holds has its size when that is read")
    func shrink() throws {
        let (client, server) = try pair(.seqpacket)
        #expect(try send(200_000, client) == 200_000)
        try server.set(.bufferSize(65_536))
        #expect(try receive(200_000, server) == 200_000)
        #expect(throws: SocketError.messageTooLong) { try send(65_537, client) }
        #expect(try send(65_536, client) == 65_536)
    }

    // MARK: Options

    @Test("the maximum of the buffer sizes wins over the minimum")
    func sizes() throws {
        let socket = loopback.makeSocket(.stream)
        try socket.set(.bufferMinimumSize(70_000))
        try socket.set(.bufferMaximumSize(4096))
        #expect(socket.settings.bufferSize == 4096)
        try socket.set(.bufferMaximumSize(1 << 40))
        try socket.set(.bufferSize(1 << 33))
        #expect(socket.settings.bufferSize == 1 << 33)
        _ = try listener()
        try socket.connect(to: Self.address(5))
        #expect(socket.settings.bufferSize == UInt64(UInt32.max))
    }

    @Test("SO_RCVLOWAT: at most the buffer on a stream, anything on records")
    func lowWaterMark() throws {
        let stream = loopback.makeSocket(.stream)
        for count in [-1, 262_145] {
            #expect(throws: SocketError.invalidArgument) { try stream.set(.receiveLowWaterMark(count)) }
            try loopback.makeSocket(.seqpacket).set(.receiveLowWaterMark(count))
        }
        try stream.set(.receiveLowWaterMark(262_144))
    }
}
