// SPDX-License-Identifier: Apache-2.0
//
// The kernel's own tests as the judge: vsock_test of Linux 6.12 and of 6.1, unmodified, in guests. Goal: it passes all
// of its cases against this stack, whichever role it has and wherever the stack is. `make kernel-tests RUNS=3` runs
// each pair of guests so often in a row.

import Foundation
import Testing
import VsockSystem
import VsockTestPrograms

@Suite("The kernel's tests", .serialized)
struct KernelTests {
    /// Runs in a row of each pair of guests.
    private static let runCount =
        ProcessInfo.processInfo.environment["VSOCK_KERNEL_TEST_RUNS"].flatMap { Int($0) } ?? 1

    private let directory: TemporaryDirectory

    init() throws { directory = try TemporaryDirectory() }

    @Test(
        "vsock_test in a guest passes as client of a device's host",
        .enabled(if: KernelTestProgram.linux612.isAvailable(with: "6.12")))
    func guestIsClient() throws {
        try KernelTestProgram.linux612.build()
        let socket = directory.path + "/vm.sock"
        let host = try Program("vsock test", test("server", port: 0) + ["--transport", "device:\(socket),guest-cid=3"])
        let line = try host.waitForLine(containing: "listening", seconds: 120)
        let port = try #require(line.split(separator: ":").last.flatMap { UInt16($0) })
        let guest = try KernelTestGuest(
            .linux612, kernel: "6.12", mode: "client", peerCID: 2, socket: socket,
            control: InternetSocket.connect(host: "127.0.0.1", port: port), directory)
        try guest.expectPassed()
        #expect(try host.end(seconds: KernelTestGuest.seconds) == 0)
    }

    @Test(
        "vsock_test in a guest passes as server of a device's host",
        .enabled(if: KernelTestProgram.linux612.isAvailable(with: "6.12")))
    func guestIsServer() throws {
        try KernelTestProgram.linux612.build()
        let socket = directory.path + "/vm.sock"
        let listener = try InternetSocket.listen(host: "127.0.0.1", port: 0)
        let port = try InternetSocket.localPort(listener.rawValue)
        let host = try Program(
            "vsock test", test("client", port: port) + ["--transport", "device:\(socket),guest-cid=3"])
        // The device is there before it connects.
        guard let control = try InternetSocket.accept(listener.rawValue) else {
            throw ProgramError(description: "vsock test does not connect")
        }
        let guest = try KernelTestGuest(
            .linux612, kernel: "6.12", mode: "server", peerCID: 2, socket: socket, control: control, directory)
        try guest.expectPassed()
        #expect(try host.end(seconds: KernelTestGuest.seconds) == 0)
    }

    @Test(
        "vsock_test passes between two guests of one daemon",
        .enabled(if: KernelTestProgram.linux612.isAvailable(with: "6.12")))
    func siblings() throws { try pass(.linux612, server: "6.12", client: "6.12") }

    @Test(
        "Linux 6.1's vsock_test passes between two guests with Linux 6.1",
        .enabled(if: KernelTestProgram.linux61.isAvailable(with: "6.1")))
    func olderSiblings() throws { try pass(.linux61, server: "6.1", client: "6.1") }

    @Test(
        "Linux 6.1's vsock_test passes between User Mode Linux and a QEMU guest, either of them the server",
        .enabled(if: KernelTestProgram.linux61.isAvailable(with: "uml", "6.1")))
    func userModeLinux() throws {
        // Not 6.12 in QEMU: there an unreadable buffer is EFAULT, and this program wants the ENOMEM of its time.
        try pass(.linux61, server: "uml", client: "6.1")
        try pass(.linux61, server: "6.1", client: "uml")
    }

    /// Runs `program` between two guests of one daemon, again and again.
    private func pass(_ program: KernelTestProgram, server: String, client: String) throws {
        try program.build()
        let directory = try TemporaryDirectory()
        let sockets = (3...4).map { "\(directory.path)/vm\($0).sock" }
        let daemon = try Program(
            "vsock serve",
            [Place.command, "serve", "--log-level", "warning"]
                + zip(3..., sockets).flatMap { ["--vm", "guest-cid=\($0),socket=\($1),uds-path=\($1).uds"] })
        for _ in sockets { _ = try daemon.waitForLine(containing: "QEMU", seconds: 120) }
        for run in 1...Self.runCount {
            let control = try UnixSocket.makePair(.stream, nonBlocking: false)
            let serving = try KernelTestGuest(
                program, kernel: server, mode: "server", peerCID: 4, socket: sockets[0], control: control.first,
                directory)
            let asking = try KernelTestGuest(
                program, kernel: client, mode: "client", peerCID: 3, socket: sockets[1], control: control.second,
                directory)
            let passed = try asking.expectPassed()
            try serving.expectPassed()
            print(
                "vsock_test \(program.version), server: \(server), client: \(client), run \(run) of \(Self.runCount): "
                    + "\(passed.count) of \(program.caseCount)")
            if Self.runCount > 1 { print(passed.joined(separator: "\n")) }
        }
        try daemon.kill(SIGTERM)
        #expect(try daemon.end(seconds: 120) == 0)
    }

    @Test(
        "vsock_test and vsock test pass against each other over the kernel's loopback",
        .enabled(if: KernelTestProgram.linux612.isAvailable(with: "6.12")))
    func kernelLoopback() throws {
        try KernelTestProgram.linux612.build()
        let socket = directory.path + "/vm.sock"
        let daemon = try Program(
            "vsock serve", [Place.command, "serve", "--socket", socket, "--uds-path", socket + ".uds"])
        _ = try daemon.waitForLine(containing: "QEMU", seconds: 120)
        let run = "python3 \(Place.programs)/kernel_loopback.py \(KernelTestProgram.linux612.caseCount)"
        let ours = "\(Place.command) test --transport kernel"
        let guest = try Program(
            "guest",
            [
                Place.command, "guest", "--kernel", "6.12", "--socket", socket, "--module", "vsock_loopback", "--",
                "/bin/sh", "-c",
                """
                \(run) \(ours) -- \(KernelTestProgram.linux612.path) && \(run) \(KernelTestProgram.linux612.path) -- \(ours) \
                && \(ours) --peer-cid 1
                """,
            ])
        #expect(try guest.end(seconds: KernelTestGuest.seconds) == 0, "\(guest.transcript)")
        try daemon.kill(SIGTERM)
        #expect(try daemon.end(seconds: 120) == 0)
    }

    private func test(_ mode: String, port: UInt16) -> [String] {
        [Place.command, "test", "--mode", mode, "--control-host", "127.0.0.1", "--control-port", "\(port)"]
    }
}
