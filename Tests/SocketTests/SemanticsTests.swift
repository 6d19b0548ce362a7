// SPDX-License-Identifier: Apache-2.0
//
// Calls, options and errors of vsock(7) as Linux has them.

import Testing
import Vsock
import VsockTestSupport

@Suite("Semantics", .timeLimit(.minutes(10)))
struct SemanticsTests {
    private static let loopbacks: [Setup] = [.loopback, .loopbackRFC]

    private func expect<Value>(
        _ error: SocketError, _ body: () async throws -> Value, location: SourceLocation = #_sourceLocation
    ) async {
        await #expect(throws: error, sourceLocation: location) { _ = try await body() }
    }

    // MARK: Addresses

    @Test("bind: one table for both types, own addresses only, any port", arguments: Setup.allCases)
    func bind(setup: Setup) async throws {
        let ends = try setup.make()
        let first = try await VsockListener.bind(.stream, port: 5000, on: ends.listening)
        #expect(first.address.port == 5000)
        await expect(.addressInUse) { try await VsockListener.bind(.seqpacket, port: 5000, on: ends.listening) }
        await expect(.addressNotAvailable) {
            try await VsockListener.bind(.stream, port: 5001, cid: 99, on: ends.listening)
        }
        let own = try await VsockListener.bind(.stream, port: .any, cid: ends.cid, on: ends.listening)
        #expect(own.address.port.rawValue > 1023 && own.address.port != .any)
        first.close()
        _ = try await VsockListener.bind(.seqpacket, port: 5000, on: ends.listening)
    }

    @Test("connect: refused at once, also by a listener of the other type", arguments: Setup.allCases)
    func refused(setup: Setup) async throws {
        let ends = try setup.make()
        let listener = try await VsockListener.bind(.seqpacket, port: 1, on: ends.listening)
        for port in [1, 2] as [VsockAddress.Port] {
            await expect(.connectionReset) {
                try await VsockSocket.connect(
                    .stream, to: VsockAddress(cid: ends.cid, port: port), over: ends.connecting)
            }
        }
        listener.close()
    }

    @Test("connect: context IDs that cannot be reached", arguments: Setup.allCases)
    func unreachable(setup: Setup) async throws {
        let ends = try setup.make()
        // A guest's driver leaves it to the device, as Linux does, whom there is.
        let isDriver = setup == .driverToDevice || setup == .driverToDeviceRFC
        for cid in [.any, .hypervisor, setup.isLoopback ? 77 : .local] as [VsockAddress.ContextID] {
            await expect(isDriver && cid != .local ? .connectionReset : .noDevice) {
                try await VsockSocket.connect(.stream, to: VsockAddress(cid: cid, port: 1), over: ends.connecting)
            }
        }
    }

    @Test("a full backlog refuses: one more waits than was asked for", arguments: Setup.allCases)
    func backlog(setup: Setup) async throws {
        let ends = try setup.make()
        let listener = try await VsockListener.bind(.stream, port: 9, backlog: 1, on: ends.listening)
        let address = VsockAddress(cid: ends.cid, port: 9)
        let first = try await VsockSocket.connect(.stream, to: address, over: ends.connecting)
        let second = try await VsockSocket.connect(.stream, to: address, over: ends.connecting)
        await expect(.connectionReset) {
            try await VsockSocket.connect(.stream, to: address, over: ends.connecting)
        }
        let accepted = try await listener.accept()
        #expect(accepted.peerAddress?.port == first.localAddress.port)
        #expect(accepted.localAddress.port == 9)
        let third = try await VsockSocket.connect(.stream, to: address, over: ends.connecting)
        #expect(third.peerAddress == address && second.peerAddress == address)
    }

    @Test("ESOCKTNOSUPPORT without seqpacket; streams go on")
    func noSeqpacket() async throws {
        let transport = VsockTransport.isolatedLoopback(seqpacket: .off)
        let listener = try await VsockListener.bind(.stream, port: 4, on: transport)
        let address = VsockAddress(cid: .local, port: 4)
        await expect(.socketTypeNotSupported) {
            try await VsockSocket.connect(.seqpacket, to: address, over: transport)
        }
        _ = try await VsockSocket.connect(.stream, to: address, over: transport)
        listener.close()
    }

    @Test("the context ID of this side")
    func localCID() throws {
        let ends = try Setup.driverToDevice.make()
        #expect(try ends.listening.localCID() == .host)
        #expect(try ends.connecting.localCID() == 42)
        #expect(try VsockTransport.loopback.localCID() == .local)
        #expect(try VsockTransport.uds("/tmp/vm").localCID() == .host)
    }

    @Test("a listener's options are those of its connections")
    func inherited() async throws {
        let ends = try Setup.loopback.make()
        let listener = try await VsockListener.bind(.stream, port: 6, on: ends.listening)
        #expect(listener.type == .stream && listener.readiness == [])
        try listener.set(.bufferSize(8192))
        try listener.set(.receiveTimeout(.milliseconds(1)))
        #expect(listener.settings.bufferSize == 8192)
        await expect(.wouldBlock) { try await listener.accept() }
        let address = VsockAddress(cid: ends.cid, port: 6)
        _ = try await VsockSocket.connect(.stream, to: address, over: ends.connecting)
        #expect(listener.readiness == .readable)
        #expect(try await listener.accept().settings.bufferSize == 8192)
    }

    @Test("a driver without a device says what it cannot reach")
    func unopened() async throws {
        let path = "/tmp/vsock-nowhere-\(UInt32.random(in: 0 ... .max)).sock"
        do {
            _ = try await VsockListener.bind(.stream, port: 1, on: .driver(path))
            Issue.record("nobody listens there")
        } catch let error as TransportError {
            #expect(error.description.contains(path))
        }
    }

    @Test("a device without a guest: connecting times out")
    func timeout() async throws {
        let path = "/tmp/vsock-lonely-\(UInt32.random(in: 0 ... .max)).sock"
        let device = VsockTransport.device(path)
        await expect(.timedOut) {
            try await VsockSocket.connect(
                .stream, to: VsockAddress(cid: 3, port: 1), over: device,
                options: [.connectTimeout(.milliseconds(20))])
        }
        device.close()
    }

    // MARK: Waiting

    @Test("nothing to receive: EAGAIN without waiting and after SO_RCVTIMEO", arguments: Setup.allCases)
    func nothing(setup: Setup) async throws {
        for type in [SocketType.stream, .seqpacket] {
            let (client, server) = try await setup.make().pair(type)
            await expect(.wouldBlock) { try await client.next(8, ReceiveOptions(doesNotWait: true)) }
            try client.set(.receiveTimeout(.milliseconds(5)))
            await expect(.wouldBlock) { try await client.next(8) }
            var buffer = [UInt8](repeating: 0, count: 8)
            #expect(throws: SocketError.wouldBlock) { _ = try client.blocking.receive(into: &buffer) }
            #expect(client.readiness == .writable)
            server.close()
        }
    }

    @Test("a full peer: EAGAIN, a stream's part, and nothing of a record", arguments: Setup.allCases)
    func full(setup: Setup) async throws {
        let (client, server) = try await setup.make().pair(.stream)
        #expect(
            try await client.send(pattern(300_000), options: SendOptions(timeoutNanoseconds: testPatience)) == 262_144)
        await expect(.wouldBlock) { try await client.send([1], options: SendOptions(doesNotWait: true)) }
        #expect(!client.readiness.contains(.writable))
        #expect(
            try await server.next(262_144, ReceiveOptions(waitsForAll: true)) == Array(pattern(300_000)[..<262_144]))
        #expect(try await client.ready(.writable).contains(.writable))

        let (sender, receiver) = try await setup.make().pair(.seqpacket)
        try await sender.send(pattern(200_000))
        for options in [SendOptions(doesNotWait: true), SendOptions(timeoutNanoseconds: testPatience)] {
            await expect(.wouldBlock) { try await sender.send(pattern(100_000), options: options) }
        }
        try sender.set(.sendTimeout(.milliseconds(5)))
        await expect(.wouldBlock) { try await sender.send(pattern(100_000)) }
        try sender.set(.sendTimeout(.zero))
        #expect(try await receiver.next(200_000) == pattern(200_000))
        try await sender.send(pattern(100_000, seed: 2))
        #expect(try await receiver.next(200_000) == pattern(100_000, seed: 2))
    }

    @Test("a cancelled task gets ECANCELED, and what came is not lost", arguments: Setup.allCases)
    func cancelled(setup: Setup) async throws {
        for type in [SocketType.stream, .seqpacket] {
            let (client, server) = try await setup.make().pair(type)
            let task = Task { try await server.next() }
            task.cancel()
            await #expect(throws: SocketError.cancelled) { _ = try await task.value }
            try await client.send([1, 2])
            #expect(try await server.next() == [1, 2])
        }
        let listener = try await VsockListener.bind(.stream, port: 3, on: .isolatedLoopback())
        let task = Task { try await listener.accept() }
        task.cancel()
        await #expect(throws: SocketError.cancelled) { _ = try await task.value }
    }

    @Test(
        "a record that gives up half-way leaves nothing at the peer",
        arguments: [Setup.loopbackRFC, .driverToDeviceRFC])
    func abandoned(setup: Setup) async throws {
        let (client, server) = try await setup.make().pair(.seqpacket)
        await expect(.wouldBlock) {
            try await client.send(pattern(1 << 20), options: SendOptions(timeoutNanoseconds: testPatience))
        }
        await expect(.messageTooLong) {
            try await client.send(pattern(1 << 20), options: SendOptions(doesNotWait: true))
        }
        async let sent = client.send([5, 6, 7])
        #expect(try await server.next() == [5, 6, 7])
        #expect(try await sent == 3)
    }

    @Test("EMSGSIZE above the peer's buffer in the standard framing", arguments: [Setup.loopback, .driverToDevice])
    func tooLong(setup: Setup) async throws {
        let (client, server) = try await setup.make().pair(.seqpacket)
        await expect(.messageTooLong) { try await client.send(pattern(262_145)) }
        async let sent = client.send(pattern(262_144))
        #expect(try await server.next(262_144) == pattern(262_144))
        #expect(try await sent == 262_144)
    }

    @Test("MSG_PEEK, SO_RCVLOWAT, MSG_WAITALL and SIOCINQ", arguments: Setup.allCases)
    func streams(setup: Setup) async throws {
        let (client, server) = try await setup.make().pair(.stream)
        try server.set(.receiveLowWaterMark(4))
        try await client.send([1, 2, 3])
        #expect(!server.readiness.contains(.readable))
        try await client.send([4])
        #expect(try await server.ready(.readable).contains(.readable))
        #expect(server.unreadByteCount == 4)
        #expect(try await server.next(8, ReceiveOptions(peeks: true)) == [1, 2, 3, 4])
        try server.set(.receiveLowWaterMark(0))
        #expect(server.settings.receiveLowWaterMark == 1)
        #expect(try await server.next(2) == [1, 2])
        async let all = server.next(5, ReceiveOptions(waitsForAll: true))
        try await client.send([5, 6, 7])
        #expect(try await all == [3, 4, 5, 6, 7])
        #expect(throws: SocketError.invalidArgument) { try server.set(.receiveLowWaterMark(1 << 20)) }
        try await client.send([8])
        try client.shutdown(.send)
        #expect(try await server.next(5, ReceiveOptions(waitsForAll: true)) == [8])
        #expect(client.unsentByteCount == 0)
    }

    // MARK: Ends

    @Test("shutdown: EPIPE for who sends, the end for who receives", arguments: Setup.allCases)
    func shutdown(setup: Setup) async throws {
        let (client, server) = try await setup.make().pair(.seqpacket)
        try client.shutdown(.send)
        await expect(.brokenPipe) { try await client.send([1]) }
        #expect(try await server.waitForEnd())
        #expect(server.readiness.contains([.readable, .readHangUp]))
        try server.shutdown(.receive)
        #expect(try await server.waitForEnd())
        try await server.send([3])
        #expect(try await client.next() == [3])
        try client.shutdown(.receive)
        #expect(try await client.waitForEnd())
        while true {
            do throws(SocketError) { try await server.send([4]) } catch {
                #expect(error == .brokenPipe)
                break
            }
        }
        server.close()
        await expect(.badDescriptor) { try await server.send([1]) }
        await expect(.badDescriptor) { try await server.next() }
    }

    @Test("a close ends what waits in the same socket, and a listener's sequence", arguments: Self.loopbacks)
    func closing(setup: Setup) async throws {
        let (client, server) = try await setup.make().pair(.stream)
        let waiting = Task { try await server.next() }
        server.close()
        await expect(.badDescriptor) { try await waiting.value }
        #expect(try await client.waitForEnd())
        let listener = try await VsockListener.bind(.stream, port: 3, on: .isolatedLoopback())
        listener.close()
        for try await _ in listener { Issue.record("a closed listener takes nothing") }
    }

    @Test("a transport that goes resets its sockets", arguments: [Setup.driverToDevice, .deviceToDriver])
    func lost(setup: Setup) async throws {
        let ends = try setup.make()
        let (client, server) = try await ends.pair(.stream)
        ends.connecting.close()
        await expect(.connectionReset) { try await client.next() }
        #expect(client.takeError() == .connectionReset)
        _ = try? await server.next()
        await #expect(throws: TransportError.self) {
            _ = try await VsockSocket.connect(
                .stream, to: VsockAddress(cid: ends.cid, port: 1234), over: ends.connecting)
        }
    }

    // MARK: Options

    @Test("buffer sizes are kept between minimum and maximum, and are the peer's credit", arguments: Setup.allCases)
    func buffers(setup: Setup) async throws {
        let (client, server) = try await setup.make().pair(.stream, options: [.bufferSize(4096)])
        #expect(server.settings.bufferSize == 4096)
        #expect(try await client.send(pattern(10_000), options: SendOptions(timeoutNanoseconds: testPatience)) == 4096)
        try server.set(.bufferSize(1 << 30))
        #expect(server.settings.bufferSize == 262_144)
        try server.set(.bufferMaximumSize(1 << 20))
        try server.set(.bufferSize(1 << 30))
        #expect(server.settings.bufferSize == 1 << 20)
        #expect(try await client.send(pattern(900_000)) == 900_000)
        try server.set(.bufferSize(1))
        #expect(server.settings.bufferSize == 128)
        try server.set(.bufferMinimumSize(2000))
        #expect(server.settings.bufferSize == 2000)
        try server.set(.bufferMaximumSize(1000))
        #expect(server.settings.bufferSize == 1000)
        #expect(try await server.next(904_096, ReceiveOptions(waitsForAll: true)).count == 904_096)
    }

    @Test("times: zero is the default, negative is ERANGE")
    func times() async throws {
        let (client, _) = try await Setup.loopback.make().pair(.stream)
        try client.set(.connectTimeout(.milliseconds(5)))
        #expect(client.settings.connectTimeoutNanoseconds == 5_000_000)
        try client.set(.connectTimeout(.zero))
        #expect(client.settings.connectTimeoutNanoseconds == 2_000_000_000)
        #expect(throws: SocketError.outOfRange) { try client.set(.connectTimeout(.seconds(-1))) }
    }

    @Test(
        "the grammar of transports",
        arguments: [
            "loopback", "kernel", "loopback,seqpacket=rfc-v5", "driver:/a.sock", "uds:/x:y,z",
            "device:/d.sock,guest-cid=9,seqpacket=off",
        ])
    func grammar(text: String) throws { #expect(try VsockTransport(text).description == text) }

    @Test(
        "what the grammar does not have",
        arguments: [
            "", "tcp", "driver", "driver:", "loopback:x", "kernel,seqpacket=off", "driver:/a,seqpacket=on",
            "device:/d,guest-cid=2", "device:/d,guest-cid=x", "driver:/a,guest-cid=4",
            "device:/d,guest-cid=5,guest-cid=6",
        ])
    func noGrammar(text: String) { #expect(throws: TransportError.self) { try VsockTransport(text) } }
}

@Suite("Errors")
struct ErrorTests {
    @Test(
        "have Linux's errno and its name, and are found by it",
        arguments: [
            (.badDescriptor, 9, "EBADF"), (.wouldBlock, 11, "EAGAIN"), (.accessDenied, 13, "EACCES"),
            (.noDevice, 19, "ENODEV"), (.invalidArgument, 22, "EINVAL"), (.outOfRange, 34, "ERANGE"),
            (.notSupported, 95, "EOPNOTSUPP"), (.addressNotAvailable, 99, "EADDRNOTAVAIL"),
            (.networkUnreachable, 101, "ENETUNREACH"), (.alreadyConnected, 106, "EISCONN"),
            (.alreadyInProgress, 114, "EALREADY"), (.inProgress, 115, "EINPROGRESS"), (.cancelled, 125, "ECANCELED"),
            (.system(errno: 1), 1, "errno 1"),
        ] as [(SocketError, Int32, String)])
    func errno(error: SocketError, errno: Int32, name: String) {
        #expect(error.errno == errno)
        #expect(error.name == name)
        #expect(SocketError(errno: errno) == error)
    }
}
