// SPDX-License-Identifier: Apache-2.0
//
// What one VM's programs and its monitor get done in one iteration of the loop, however much they ask for: the rest
// waits until other VMs of the thread have had their turn. The loop runs on the test's own thread.

import Testing
import VsockCore
import VsockSystem
import VsockTestSupport
import VsockWire

@testable import VsockTransport

@Suite("Turns")
struct TurnTests {
    private let directory: TemporaryDirectory
    private let loop: EventLoop
    private let server: VhostUserServer
    private let listener: HybridListener

    init() throws {
        directory = try TemporaryDirectory()
        loop = try EventLoop(mailbox: LoopMailbox())
        let configuration = VsockDeviceConfiguration(
            guestCID: 3, socketPath: directory.file("d"), hybridPath: directory.file("v"))
        server = try VhostUserServer(configuration, loop: loop, log: LogRecorder().logger)
        listener = try #require(server.device.host.listener)
    }

    private func turn() { loop.turn(timeoutNanoseconds: 0) }

    @Test("clients that come at once are accepted some at a time, and all in the end")
    func accepting() throws {
        let limit = HybridListener.turnClientCount
        let clients = try (0..<2 * limit + 5).map { _ in
            try HostProgram(connectingTo: directory.file("v"), type: .stream)
        }
        for count in [limit, 2 * limit, 2 * limit + 5] {
            turn()
            #expect(listener.clientCount == count)
        }
        withExtendedLifetime(clients) {}
        server.stop()
        #expect(listener.clientCount == 0)
    }

    @Test("clients that speak or leave at once are looked at some at a time, and all in the end")
    func leaving() throws {
        let limit = HybridListener.turnClientCount
        var clients = try (0..<2 * limit).map { _ in
            try HostProgram(connectingTo: directory.file("v"), type: .stream)
        }
        while listener.clientCount < clients.count { turn() }
        for (index, client) in clients.enumerated() where index % 2 == 0 { try client.send("hello\n") }
        clients = []
        turn()
        #expect(listener.clientCount == limit)
        turn()
        #expect(listener.clientCount == 0)
        #expect(server.device.host.counters.clientsFailed == 2 * limit)
        server.stop()
    }

    @Test("a monitor's messages are answered some at a time, and all in the end")
    func messages() throws {
        let monitor = try HostProgram(connectingTo: directory.file("d"), type: .stream)
        turn()
        // VHOST_USER_GET_FEATURES, version 1, no payload; the answer has 8 bytes after the header.
        let request: [UInt8] = [1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0]
        for _ in 0..<40 { try monitor.send(request) }
        for count in [16, 16, 8] {
            turn()
            guard case .bytes(let answers) = monitor.tryReceive() else {
                Issue.record("no answer in this turn")
                continue
            }
            #expect(answers.count == count * 20)
        }
        server.stop()
    }

    @Test("the queue of clients keeps their order, whoever leaves")
    func order() throws {
        var queue = ClientQueue()
        let start = Instant(nanoseconds: 0)
        let clients = try (0..<5).map { _ in
            let pair = try UnixSocket.makePair(.stream, nonBlocking: true)
            return HybridClient(pair.first, type: .stream, listener: listener, start: start, deadline: start)
        }
        for client in clients { queue.append(client) }
        for index in [2, 0, 4] { queue.remove(clients[index]) }
        queue.append(clients[2])
        var order: [Int?] = []
        while let first = queue.first {
            order.append(clients.firstIndex { $0 === first })
            queue.remove(first)
        }
        let count = queue.count
        #expect(order == [1, 3, 2] && count == 0)
        server.stop()
    }
}
