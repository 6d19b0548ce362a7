// SPDX-License-Identifier: Apache-2.0
//
// What the transport `uds` makes of a Unix socket, seen against a peer that is one: the convention, the errors of
// vsock(7), and the semantics that a Unix socket does not have by itself.

import Testing
import VsockSystem
import VsockTestSupport

import Vsock

@Suite("Unix sockets as vsock sockets", .timeLimit(.minutes(10)))
struct HybridSocketTests {
    private let directory: TemporaryDirectory
    private let path: String
    private let transport: VsockTransport

    init() throws {
        directory = try TemporaryDirectory()
        path = directory.path + "/vm"
        transport = .uds(path)
    }

    /// A connection that a program without this package made to a listener of ours.
    private func accepted(_ type: SocketType) throws -> (peer: SharedFileDescriptor, socket: VsockSocket) {
        let listener = try VsockListener.bindBlocking(type, port: 7, on: transport)
        let peer = try UnixSocket.connect(
            to: try UnixAddress(path + "_7"), type: type == .stream ? .stream : .seqpacket, nonBlocking: false)
        return (SharedFileDescriptor(peer), try listener.acceptBlocking())
    }

    private func send(_ bytes: [UInt8], _ peer: SharedFileDescriptor) throws {
        let sent = bytes.withUnsafeBytes { DescriptorIO.send(peer.rawValue, from: $0) }
        try #require(sent == .count(bytes.count))
    }

    // MARK: Errors

    @Test("nobody serves the path: ENODEV", arguments: [SocketType.stream, .seqpacket])
    func noDevice(type: SocketType) async throws {
        await #expect(throws: SocketError.noDevice) {
            _ = try await VsockSocket.connect(type, to: VsockAddress(cid: 3, port: 1), over: transport)
        }
        // A file that a device left.
        for name in [path, path + "_seqpacket"] {
            let left = try UnixSocket.listen(at: try UnixAddress(name), type: .stream, backlog: 1)
            _ = consume left
        }
        await #expect(throws: SocketError.noDevice) {
            _ = try await VsockSocket.connect(.stream, to: VsockAddress(cid: 3, port: 1), over: transport)
        }
    }

    @Test("a device without a socket for records: ESOCKTNOSUPPORT")
    func noRecords() async throws {
        let device = try UnixSocket.listen(at: try UnixAddress(path), type: .stream, backlog: 1)
        await #expect(throws: SocketError.socketTypeNotSupported) {
            _ = try await VsockSocket.connect(.seqpacket, to: VsockAddress(cid: 3, port: 1), over: transport)
        }
        _ = consume device
    }

    @Test("a device that does not answer: ETIMEDOUT after the connect timeout", arguments: [true, false])
    func silentDevice(isBlocking: Bool) async throws {
        let device = try UnixSocket.listen(at: try UnixAddress(path), type: .stream, backlog: 1)
        let address = VsockAddress(cid: 3, port: 1)
        let options = [SocketOption.connectTimeout(.milliseconds(20))]
        await #expect(throws: SocketError.timedOut) {
            if isBlocking {
                _ = try VsockSocket.connectBlocking(.stream, to: address, over: transport, options: options)
            } else {
                _ = try await VsockSocket.connect(.stream, to: address, over: transport, options: options)
            }
        }
        _ = consume device
    }

    @Test(
        "what a device may not answer: EPROTO",
        arguments: ["NO 1\n", "OK\n", "OK x\n", "OK 1 2\n", "OK 42949672960\n"])
    func wrongAnswer(answer: String) async throws {
        let device = try UnixListener(try UnixAddress(path), type: .stream)
        let task = Task {
            try await VsockSocket.connect(
                .stream, to: VsockAddress(cid: 3, port: 1), over: transport,
                options: [.connectTimeout(.nanoseconds(testDeadline))])
        }
        let client = try await client(of: device)
        try send(Array(answer.utf8), client)
        await #expect(throws: SocketError.protocolError) { _ = try await task.value }
        // Closed earlier, with the request unread, it would reset the connection.
        withExtendedLifetime(client) {}
    }

    /// Who connects to a device of ours. Blocks no thread, since the client may need this one.
    private func client(of device: UnixListener) async throws -> SharedFileDescriptor {
        let deadline = MonotonicClock.now() + testDeadline
        while MonotonicClock.now() < deadline {
            if let client = try device.accept() { return SharedFileDescriptor(client) }
            await Task.yield()
        }
        Issue.record("no client has come")
        throw SocketError.timedOut
    }

    @Test("bind: the host's context ID only, and any port finds a free one")
    func bind() async throws {
        await #expect(throws: SocketError.addressNotAvailable) {
            _ = try await VsockListener.bind(.stream, port: 8, cid: 3, on: transport)
        }
        let listener = try await VsockListener.bind(.stream, port: .any, on: transport)
        #expect(listener.address.cid == .host)
        #expect(FileSystem.kind(of: "\(path)_\(listener.address.port.rawValue)") == .socket)
    }

    @Test("a port is free as soon as its listener is closed")
    func rebind() async throws {
        for _ in 0..<50 {
            let listener = try await VsockListener.bind(.stream, port: 9, on: transport)
            listener.close()
            #expect(!FileSystem.exists(path + "_9"))
        }
    }

    @Test("the buffer size bounds a record, and the other sizes are the device's: EOPNOTSUPP")
    func buffers() async throws {
        let (peer, socket) = try accepted(.seqpacket)
        #expect(throws: SocketError.notSupported) { try socket.set(.bufferMaximumSize(4096)) }
        #expect(throws: SocketError.notSupported) { try socket.set(.bufferMinimumSize(4096)) }
        #expect(throws: SocketError.invalidArgument) { try socket.set(.bufferSize(0)) }
        try socket.set(.bufferSize(8192))
        #expect(socket.settings.bufferSize == 8192)
        await #expect(throws: SocketError.messageTooLong) { _ = try await socket.send(pattern(100_000)) }
        withExtendedLifetime(peer) {}
    }

    // MARK: Data

    @Test("a closed socket is ready at once, and its calls say EBADF")
    func closed() async throws {
        let (peer, socket) = try accepted(.stream)
        socket.close()
        #expect(try await socket.ready(.readable).contains(.hangUp))
        #expect(socket.blocking.poll(.writable, timeoutNanoseconds: nil).contains(.hangUp))
        await #expect(throws: SocketError.badDescriptor) { _ = try await socket.next() }
        await #expect(throws: SocketError.badDescriptor) { _ = try await socket.send([1]) }
        withExtendedLifetime(peer) {}
    }

    @Test("a receive that a close interrupts says EBADF", arguments: [SocketType.stream, .seqpacket])
    func interrupted(type: SocketType) async throws {
        let (peer, socket) = try accepted(type)
        let task = Task { try await socket.next() }
        socket.close()
        await #expect(throws: SocketError.badDescriptor) { _ = try await task.value }
        // Closed earlier, it would end what the task receives.
        withExtendedLifetime(peer) {}
    }

    @Test("a cancelled receive loses nothing", arguments: [SocketType.stream, .seqpacket])
    func cancelled(type: SocketType) async throws {
        let (peer, socket) = try accepted(type)
        for count in 1...50 {
            let options = ReceiveOptions(waitsForAll: true, timeoutNanoseconds: testDeadline)
            let task = Task { try await socket.next(1, options) }
            // Cancelled before, while or after the byte comes.
            if count % 2 == 0 { task.cancel() }
            try send([UInt8(count)], peer)
            if count % 2 == 1 { task.cancel() }
            do {
                #expect(try await task.value == [UInt8(count)])
            } catch SocketError.cancelled {
                #expect(try await socket.next(1, options) == [UInt8(count)])
            }
        }
    }

    @Test("an empty record is none but the end, also when the peer has closed behind it")
    func emptyRecord() async throws {
        do {
            let (peer, socket) = try accepted(.seqpacket)
            try send([], peer)
            try send([1], peer)
            try send([], peer)
            #expect(SharedFileDescriptor.isShut(peer))
            var buffer: [UInt8] = [0, 0]
            #expect(try await socket.receive(into: &buffer) == ReceiveResult())
            #expect(try await socket.receive(into: &buffer).count == 1)
            #expect(try await socket.receive(into: &buffer) == ReceiveResult())
            #expect(try await socket.receive(into: &buffer) == ReceiveResult(isEnd: true))
        }
    }

    @Test("a record that exceeds a Unix socket's default buffer goes out")
    func largeRecord() async throws {
        let (peer, socket) = try accepted(.seqpacket)
        let record = pattern(300_000)
        try await socket.send(record)
        var buffer = [UInt8](repeating: 0, count: 300_001)
        let received = buffer.withUnsafeMutableBytes { DescriptorIO.receive(peer.rawValue, into: $0) }
        #expect(received == .count(300_000))
        #expect(Array(buffer[..<300_000]) == record)
    }

    @Test("MSG_PEEK with MSG_WAITALL waits for what can come, and not for more")
    func peek() async throws {
        let (peer, socket) = try accepted(.stream)
        let options = ReceiveOptions(peeks: true, waitsForAll: true, timeoutNanoseconds: testDeadline)
        async let peeked = socket.next(2, options)
        try send([1], peer)
        try send([2], peer)
        #expect(try await peeked == [1, 2])
        #expect(SharedFileDescriptor.isShut(peer))
        #expect(try await socket.next(8, options) == [1, 2])
        #expect(try await socket.next(8) == [1, 2])
        #expect(try await socket.waitForEnd())
    }

    @Test("SO_RCVLOWAT makes a stream readable")
    func lowWaterMark() async throws {
        let (peer, socket) = try accepted(.stream)
        try socket.set(.receiveLowWaterMark(3))
        try send([1, 2], peer)
        #expect(!socket.readiness.contains(.readable))
        async let ready = socket.ready(.readable)
        try send([3], peer)
        #expect(try await ready == .readable)
        #expect(try await socket.next(8) == [1, 2, 3])
    }
}

extension SharedFileDescriptor {
    /// Ends the peer's sending direction.
    fileprivate static func isShut(_ peer: SharedFileDescriptor) -> Bool {
        (try? SocketOptions.shutdown(peer.rawValue, .send)) != nil
    }
}
