// SPDX-License-Identifier: Apache-2.0
//
// Connects and closes without end, mixed with kills of guests and of host programs: what a `vsock serve` has of memory
// and descriptors does not depend on how many connections there have been.
//
// VSOCK_SOAK_SECONDS is how long at least; `make soak SECONDS=1800` makes a million connections or more, prints what the
// process has after a fifteenth of that time, and at the end, and allows no more than 5 % of difference.

import Glibc
import Testing
import VsockCore
import VsockSystem
import VsockTestSupport
import VsockTransport
import VsockWire

@Suite struct SoakTests {
    private static let wanted = getenv("VSOCK_SOAK_SECONDS").flatMap { Double(String(cString: $0)) }
    private static let seconds = wanted ?? 3
    private static let hostPort: UInt32 = 5000
    private static let guestPort: UInt32 = 7000
    private static let connectionsPerGuest = 500
    /// A million in half an hour.
    private static let minimumCount = wanted.map { Int($0 * 1_000_000 / 1800) } ?? 0
    /// What an allocator moves by in the first seconds of a process.
    private static let startTolerance = 1 << 20

    private let directory: TemporaryDirectory
    private var socketPath: String { directory.file("vm.sock") }
    private var hybridPath: String { directory.file("vm") }

    init() throws { directory = try TemporaryDirectory() }

    /// A guest that listens.
    private struct Guest {
        let driver: SocketDriver
        let listener: any ConnectibleSocket

        init(_ path: String) throws {
            driver = try SocketDriver(path: path)
            listener = driver.makeSocket(.stream)
            try listener.set(.receiveTimeout(.nanoseconds(testDeadline)))
            try listener.bind(to: VsockAddress(cid: .any, port: VsockAddress.Port(rawValue: guestPort)))
            try listener.listen(backlog: 16)
        }
    }

    @Test("memory and descriptors stay the same, however many connections come and go and whoever is killed")
    func soak() throws {
        let serve = try RunningCommand([
            "serve", "--socket", socketPath, "--uds-path", hybridPath, "--log-level", "critical",
        ])
        _ = try readText(serve.output, until: "QEMU")
        let hostListener = try UnixListener(UnixAddress("\(hybridPath)_\(Self.hostPort)"), type: .stream)
        let seed = UInt64(wantedSeed())
        var random = SeededGenerator(seed: seed)
        let start = MonotonicClock.now()
        let end = start + UInt64(Self.seconds * 1e9)
        let firstLook = start + UInt64(Self.seconds * 1e9 / (Self.wanted == nil ? 3 : 15))
        var first: DaemonFootprint?
        var connectionCount = 0
        // Two seconds without an answer: that happens to a busy machine, and must leave nothing behind either.
        var timeoutCount = 0
        var guestCount = 0
        while MonotonicClock.now() < end || connectionCount < Self.minimumCount {
            // A guest is gone, for the daemon, with the last reference to it.
            connectionCount += try live(hostListener, &random, &timeoutCount)
            guestCount += 1
            if first == nil, MonotonicClock.now() >= firstLook { first = try settled(serve) }
        }
        let before = try #require(first, "not one connection in time, seed \(seed)")
        let after = try settled(serve)
        if Self.wanted != nil {
            let seconds = (MonotonicClock.now() - start) / 1_000_000_000
            print(
                """
                \(connectionCount) connections, \(timeoutCount) given up, \(guestCount) guests in \(seconds) s, \
                seed \(seed); first \(before), at the end \(after)
                """)
        }
        #expect(after.descriptorCount <= before.descriptorCount, "seed \(seed)")
        // What is in memory of its files is the kernel's choice.
        let tolerance = max(Self.wanted == nil ? Self.startTolerance : 0, before.anonymousByteCount / 20)
        #expect(
            isSanitized || after.anonymousByteCount <= before.anonymousByteCount + tolerance,
            "seed \(seed): \(before), then \(after)")
        #expect(timeoutCount <= max(3, connectionCount / 10_000), "seed \(seed)")
        try serve.kill(SIGTERM)
        #expect(try serve.finish().status == 0)
    }

    private func wantedSeed() -> Int { getenv("VSOCK_SOAK_SEED").flatMap { Int(String(cString: $0)) } ?? 1 }

    /// The life of one guest: connections that end, and at last some that are open when it is killed. Returns how many.
    private func live(
        _ hostListener: UnixListener, _ random: inout SeededGenerator, _ timeoutCount: inout Int
    ) throws -> Int {
        var started: Guest?
        // The daemon sees the end of the guest before this one when it gets to it.
        try poll {
            started = try? Guest(socketPath)
            return started != nil
        }
        let guest = try #require(started)
        // The other end of a connection that was given up.
        while let late = try hostListener.accept() { _ = consume late }
        var count = 0
        while count < Self.connectionsPerGuest {
            guard try connectAndClose(guest, hostListener, &random) else {
                timeoutCount += 1
                break
            }
            count += 1
        }
        let open = try (0..<20).compactMap { _ in try connect(guest, hostListener, &random) }
        guest.driver.stop()
        return count + open.count
    }

    /// What the daemon has when nothing is under way.
    private func settled(_ serve: RunningCommand) throws -> DaemonFootprint {
        var last = try DaemonFootprint(of: serve.processID)
        let end = MonotonicClock.now() + testPatience
        while MonotonicClock.now() < end {
            let next = try DaemonFootprint(of: serve.processID)
            if next.descriptorCount < last.descriptorCount { last = next }
        }
        return last
    }

    /// A connection that one side or the other has asked for: the guest's end, and the host's; nil when its time was up.
    private func connect(
        _ guest: Guest, _ hostListener: UnixListener, _ random: inout SeededGenerator
    ) throws -> (any ConnectibleSocket, SharedFileDescriptor)? {
        if Bool.random(using: &random) {
            let host = SharedFileDescriptor(
                try UnixSocket.connect(to: UnixAddress(hybridPath), type: .stream, nonBlocking: true))
            try writeAll(host.rawValue, "CONNECT \(Self.guestPort)\n")
            let socket = try guest.listener.accept()
            let answer = try readText(host.rawValue, count: 3)
            #expect(answer == "OK " || answer == "")
            return answer.isEmpty ? nil : (socket, host)
        }
        let socket = guest.driver.makeSocket(.stream)
        do {
            try socket.connect(to: VsockAddress(cid: .host, port: VsockAddress.Port(rawValue: Self.hostPort)))
        } catch SocketError.timedOut {
            return nil
        }
        try waitUntil(hostListener.rawDescriptor, .readable)
        guard let host = try hostListener.accept() else { throw Deadline() }
        return (socket, SharedFileDescriptor(host))
    }

    /// Some bytes, read or not, and an end by whoever comes first, as a program ends that is killed or not. False when
    /// there was no connection in time.
    private func connectAndClose(
        _ guest: Guest, _ hostListener: UnixListener, _ random: inout SeededGenerator
    ) throws -> Bool {
        guard let (socket, host) = try connect(guest, hostListener, &random) else { return false }
        defer { socket.close() }
        let bytes = [UInt8](repeating: 1, count: Int.random(in: 1...10_000, using: &random))
        if Bool.random(using: &random) { _ = try bytes.withUnsafeBytes { try socket.send($0) } }
        if Bool.random(using: &random) { _ = bytes.withUnsafeBytes { DescriptorIO.send(host.rawValue, from: $0) } }
        if Bool.random(using: &random) {
            try? socket.shutdown(.send)
            if Bool.random(using: &random) { _ = try? readOnce(host.rawValue) }
        }
        return true
    }
}
