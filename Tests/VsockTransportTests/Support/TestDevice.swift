// SPDX-License-Identifier: Apache-2.0
//
// A device with its host sockets in a directory of its own, on a thread of its own. It is what DeviceDaemon makes of
// one configuration, with a way to look inside; DeviceDaemonTests uses the daemon itself.

import Synchronization
import Testing
import VsockCore
import VsockSystem
import VsockTestSupport
import VsockWire

@testable import VsockTransport

/// One served VM. Stops with the object.
final class TestDevice {
    static let guestCID: UInt32 = 3

    let directory: TemporaryDirectory
    let log = LogRecorder()
    let socketPath: String
    let hybridPath: String
    private let mailbox: LoopMailbox
    private let server = ServerBox()
    private let thread: WorkerThread
    private let ended: EventNotifier

    /// Starts to serve.
    init(
        in directory: TemporaryDirectory? = nil, _ adjust: (inout VsockDeviceConfiguration) -> Void = { _ in }
    ) throws {
        let directory = try directory ?? TemporaryDirectory()
        self.directory = directory
        socketPath = directory.file("d")
        hybridPath = directory.file("v")
        var configuration = VsockDeviceConfiguration(
            guestCID: Self.guestCID, socketPath: socketPath, hybridPath: hybridPath)
        adjust(&configuration)
        let mailbox = try LoopMailbox()
        self.mailbox = mailbox
        let started = try EventNotifier()
        let ended = try EventNotifier()
        self.ended = ended
        thread = try WorkerThread(name: "device") { [server, log, configuration] in
            do {
                let loop = try EventLoop(mailbox: mailbox)
                let served = try VhostUserServer(configuration, loop: loop, log: log.logger)
                server.set(served)
                started.signal()
                loop.run()
                served.stop()
            } catch {
                server.fail(error)
            }
            server.set(nil)
            started.signal()
            ended.signal()
        }
        _ = try DescriptorIO.waitUntilReady(
            started.rawDescriptor, for: .readable, timeoutNanoseconds: testDeadline)
        if let failure = server.failure { throw failure }
    }

    deinit { stop() }

    /// Ends the device as the daemon does.
    func stop() {
        mailbox.submit { $0.stop() }
        let hasEnded = try? DescriptorIO.waitUntilReady(
            ended.rawDescriptor, for: .readable, timeoutNanoseconds: testDeadline)
        guard hasEnded?.isEmpty == false else {
            Issue.record("the device's thread hangs")
            return
        }
        thread.join()
    }

    /// Looks at the device on its own thread.
    func inspect<Value: Sendable>(_ body: @escaping @Sendable (VsockDevice) -> Value) throws -> Value {
        let answer = Answer<Value>()
        let done = try EventNotifier()
        mailbox.submit { [server] _ in
            if let device = server.device { answer.value.withLock { $0 = body(device) } }
            done.signal()
        }
        _ = try DescriptorIO.waitUntilReady(done.rawDescriptor, for: .readable, timeoutNanoseconds: testDeadline)
        guard let value = answer.value.withLock({ $0 }) else { throw TestFailure("the device is not running") }
        return value
    }

    /// The host's counters.
    func counters() throws -> HybridCounters { try inspect { $0.host.counters } }

    /// Connections that the device knows.
    func connectionCount() throws -> Int { try inspect { $0.host.endpoint.connectionCount } }

    // MARK: The two sides

    /// A guest with sockets.
    func guest(_ adjust: (inout VsockDriver.Options) -> Void = { _ in }) throws -> GuestSockets {
        var options = VsockDriver.Options()
        adjust(&options)
        let guest = try GuestSockets(path: socketPath, options: options)
        try waitUntilReady()
        return guest
    }

    /// A guest after a monitor that has left, or is about to: that may still count as connected.
    func nextGuest() throws -> GuestSockets {
        var guest: GuestSockets?
        try eventually {
            guest = try? self.guest()
            return guest != nil
        }
        return try #require(guest)
    }

    /// A guest's driver.
    func driver(_ adjust: (inout VsockDriver.Options) -> Void = { _ in }) throws -> VsockDriver {
        var options = VsockDriver.Options()
        adjust(&options)
        let driver = try VsockDriver(path: socketPath, options: options)
        try waitUntilReady()
        return driver
    }

    /// The driver has been acknowledged; the device looks at its queues in the next iteration.
    private func waitUntilReady() throws { try eventually { try inspect { $0.isReady } } }

    /// A host program that listens for the guest.
    func listen(_ type: UnixSocketType, port: UInt32, backlog: Int = 128) throws -> UnixListener {
        try UnixListener(UnixAddress("\(hybridPath)_\(port)"), type: type, backlog: backlog)
    }

    /// A host program that has connected to `PATH` or `PATH_seqpacket` and said nothing.
    func client(_ type: UnixSocketType = .stream) throws -> HostProgram {
        let program = try HostProgram(
            connectingTo: type == .stream ? hybridPath : hybridPath + "_seqpacket", type: type)
        try SocketOptions.setSendBuffer(program.rawDescriptor, byteCount: 4 << 20)
        return program
    }

    private final class Answer<Value: Sendable>: Sendable {
        let value = Mutex<Value?>(nil)
    }
}

/// Hands the server, which belongs to its thread, to jobs on that thread.
private final class ServerBox: @unchecked Sendable {
    // Unchecked: `server` is touched on the device's thread only.

    private var server: VhostUserServer?
    private let failed = Mutex<(any Error)?>(nil)

    var device: VsockDevice? { server?.device }
    var failure: (any Error)? { failed.withLock { $0 } }

    func set(_ server: VhostUserServer?) { self.server = server }
    func fail(_ error: any Error) { failed.withLock { $0 = error } }
}

/// A connection between a host program and a guest, whichever of them asked for it.
struct ConnectedPair {
    let host: HostProgram
    let guest: GuestSockets
    /// The guest's end.
    let socket: any ConnectibleSocket
}

extension ConnectedPair {
    /// Who asks for the connection.
    enum Initiator: CaseIterable, Sendable { case host, guest }

    init(
        _ device: TestDevice, _ guest: GuestSockets, _ type: UnixSocketType, from initiator: Initiator,
        port: UInt32 = 5000
    ) throws {
        let socketType: SocketType = type == .stream ? .stream : .seqpacket
        switch initiator {
        case .guest:
            let listener = try device.listen(type, port: port)
            let socket = try guest.connect(socketType, port: port)
            self.init(host: try listener.take(), guest: guest, socket: socket)
        case .host:
            try guest.listen(socketType, port: port)
            let client = try device.client(type)
            try client.send("CONNECT \(port)\n")
            let socket = try guest.accept(port: port)
            let line = try client.receiveLine()
            guard line?.hasPrefix("OK ") == true else { throw TestFailure("no OK: \(line ?? "closed")") }
            self.init(host: client, guest: guest, socket: socket)
        }
    }

    func send(_ bytes: [UInt8]) throws { try socket.send(bytes) }

    func receive() throws -> [UInt8]? { try socket.receive() }

    /// So many bytes of a stream, in the guest.
    func receive(exactly byteCount: Int) throws -> [UInt8] { try socket.receive(exactly: byteCount) }

    /// Everything until the end, in the guest.
    func receiveToEnd() throws -> [UInt8] { try socket.receiveToEnd() }

    /// Waits until the host has shut down these directions for the guest.
    func waitForShutdown(_ flags: ShutdownFlags) throws {
        try eventually { socket.peerShutdown.isSuperset(of: flags) }
    }
}
