// SPDX-License-Identifier: Apache-2.0
//
// `vsock serve` is killed in the middle of traffic and started again: vhost-user.rst "Inflight I/O tracking". The guest
// is the package's own driver, which reconnects as Cloud Hypervisor does.
//
// VSOCK_KILLS is how often; `make recovery` takes 100 and prints how long the device was away each time.

import Glibc
import Synchronization
import Testing
import VsockCore
import VsockSystem
import VsockTestSupport
import VsockTransport
import VsockWire

@Suite struct RecoveryTests {
    private static let killCount = getenv("VSOCK_KILLS").flatMap { Int(String(cString: $0)) } ?? 5
    /// Small, so that a buffer that is lost each time stops the device soon.
    private static let queueSize = 16
    private static let hostPort: UInt32 = 5000
    private static let guestPort: UInt32 = 7000

    private let directory: TemporaryDirectory
    private var socketPath: String { directory.file("vm.sock") }
    private var hybridPath: String { directory.file("vm") }

    init() throws { directory = try TemporaryDirectory() }

    private func serve() throws -> RunningCommand {
        let command = try RunningCommand(["serve", "--socket", socketPath, "--uds-path", hybridPath])
        _ = try readText(command.output, until: "QEMU")
        return command
    }

    /// Reads until the end or a reset.
    private static func drain(_ descriptor: Int32, _ count: borrowing Atomic<Int>) throws {
        while true {
            do throws(Errno) {
                let bytes = try readOnceTyped(descriptor)
                if bytes == 0 { return }
                count.add(bytes, ordering: .relaxed)
            } catch {
                guard error == .connectionReset else { throw error }
                return
            }
        }
    }

    private static func readOnceTyped(_ descriptor: Int32) throws(Errno) -> Int {
        var buffer = [UInt8](repeating: 0, count: 1 << 16)
        while true {
            switch buffer.withUnsafeMutableBytes({ DescriptorIO.read(descriptor, into: $0) }) {
            case .count(let count): return count
            case .failed(let errno): throw errno
            case .wouldBlock:
                let ready = try? DescriptorIO.waitUntilReady(
                    descriptor, for: .readable, timeoutNanoseconds: testDeadline)
                guard ready?.isEmpty == false else { throw .timedOut }
            }
        }
    }

    @Test("a device that is killed in the middle of traffic comes back: no buffer is lost, no connection stays")
    func kill() throws {
        var command = try serve()
        var options = VsockDriver.Options()
        options.queueSize = Self.queueSize
        let guest = try SocketDriver(path: socketPath, options: options, reconnectTimeoutNanoseconds: testDeadline)
        defer { guest.stop() }
        let guestListener = guest.makeSocket(.stream)
        try guestListener.set(.receiveTimeout(.nanoseconds(testDeadline)))
        try guestListener.bind(to: VsockAddress(cid: .any, port: VsockAddress.Port(rawValue: Self.guestPort)))
        try guestListener.listen(backlog: 8)
        let hostListener = try UnixListener(UnixAddress("\(hybridPath)_\(Self.hostPort)"), type: .stream)
        var longest: UInt64 = 0
        for _ in 0..<Self.killCount {
            let traffic = try Traffic(guest, guestListener, hostListener, hybridPath)
            try poll { traffic.hasFlown }
            try command.kill(SIGKILL)
            #expect(try command.finish().status == 128 + SIGKILL)
            try traffic.waitForEnd()
            command = try serve()
            let start = MonotonicClock.now()
            try echo(guest, hostListener)
            longest = max(longest, MonotonicClock.now() - start)
            try poll { guest.inFlightCounts.transmit == 0 }
            let counts = guest.inFlightCounts
            #expect(counts.receive == Self.queueSize && counts.event == 8)
        }
        if Self.killCount > 5 { print("\(Self.killCount) kills; usable again after at most \(longest / 1000) µs") }
        guest.waitForClosed(timeoutNanoseconds: testDeadline)
        try command.kill(SIGTERM)
        #expect(try command.finish().status == 0)
        for name in ["vm.sock", "vm", "vm_seqpacket"] {
            #expect(access(directory.file(name), F_OK) != 0, "\(name) stays")
        }
    }

    /// More records than the queues have buffers, there and back: each buffer is used.
    private func echo(_ guest: SocketDriver, _ listener: borrowing UnixListener) throws {
        let socket = guest.makeSocket(.stream)
        defer { socket.close() }
        try socket.set(.receiveTimeout(.nanoseconds(testDeadline)))
        try socket.connect(to: VsockAddress(cid: .host, port: VsockAddress.Port(rawValue: Self.hostPort)))
        try waitUntil(listener.rawDescriptor, .readable)
        guard let host = try listener.accept() else { throw Deadline() }
        var buffer = [UInt8](repeating: 0, count: 64)
        for round in 0..<UInt8(3 * Self.queueSize) {
            let isSent = try [round].withUnsafeBytes { try socket.send($0) }
            #expect(isSent == 1)
            try writeAll(host.rawValue, try read(host.rawValue, count: 1))
            let received = try buffer.withUnsafeMutableBytes { try socket.receive(into: $0) }
            #expect(received.count == 1 && buffer[0] == round)
        }
    }

    /// Bytes without end from the guest to the host and back, and a connection on which nothing happens.
    private final class Traffic {
        private let idle: any ConnectibleSocket
        private let idleHost: SharedFileDescriptor
        private let parts: [Background<Void>]
        private let counts: Counts

        private final class Counts: Sendable {
            let toHost = Atomic(0)
            let toGuest = Atomic(0)
        }

        init(
            _ guest: SocketDriver, _ guestListener: any ConnectibleSocket, _ hostListener: borrowing UnixListener,
            _ hybridPath: String
        ) throws {
            let address = VsockAddress(cid: .host, port: VsockAddress.Port(rawValue: hostPort))
            func connect() throws -> (any ConnectibleSocket, SharedFileDescriptor) {
                let socket = guest.makeSocket(.stream)
                try socket.connect(to: address)
                try waitUntil(hostListener.rawDescriptor, .readable)
                guard let host = try hostListener.accept() else { throw Deadline() }
                return (socket, SharedFileDescriptor(host))
            }
            (idle, idleHost) = try connect()
            let (sending, receivingHost) = try connect()
            let client = SharedFileDescriptor(
                try UnixSocket.connect(to: UnixAddress(hybridPath), type: .stream, nonBlocking: true))
            try writeAll(client.rawValue, "CONNECT \(guestPort)\n")
            let receiving = try guestListener.accept()
            #expect(try readText(client.rawValue, count: 3) == "OK ")
            let counts = Counts()
            self.counts = counts
            let bytes = [UInt8](repeating: 0xa5, count: 1 << 16)
            parts = [
                try Background { try Traffic.untilReset { _ = try bytes.withUnsafeBytes { try sending.send($0) } } },
                try Background { try RecoveryTests.drain(receivingHost.rawValue, counts.toHost) },
                try Background {
                    do { while true { try writeAll(client.rawValue, bytes) } } catch let errno as Errno {
                        #expect(errno == .brokenPipe || errno == .connectionReset)
                    }
                },
                try Background {
                    var buffer = [UInt8](repeating: 0, count: 1 << 16)
                    try Traffic.untilReset {
                        let options = ReceiveOptions(timeoutNanoseconds: testDeadline)
                        let result = try buffer.withUnsafeMutableBytes { try receiving.receive(into: $0, options) }
                        counts.toGuest.add(result.count, ordering: .relaxed)
                    }
                },
            ]
        }

        var hasFlown: Bool {
            min(counts.toHost.load(ordering: .relaxed), counts.toGuest.load(ordering: .relaxed)) > 1 << 20
        }

        /// Waits until every end knows that its connection is over, those of the idle one, too.
        func waitForEnd() throws {
            for part in parts { try part.value() }
            try waitUntil(idleHost.rawValue, .readable)
            var buffer = [UInt8](repeating: 0, count: 1)
            #expect(throws: SocketError.connectionReset) {
                let options = ReceiveOptions(timeoutNanoseconds: testDeadline)
                _ = try buffer.withUnsafeMutableBytes { try idle.receive(into: $0, options) }
            }
            idle.close()
        }

        private static func untilReset(_ body: () throws -> Void) throws {
            do { while true { try body() } } catch let error as SocketError {
                #expect(error == .connectionReset || error == .brokenPipe)
            }
        }
    }
}
