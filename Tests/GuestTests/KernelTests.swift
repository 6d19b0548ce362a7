// SPDX-License-Identifier: Apache-2.0
//
// The kernel's own tests as the judge: vsock_test of Linux 6.12, unmodified, in guests with that kernel. Goal: it passes
// all of its cases against this stack, whichever role it has and wherever the stack is.
//
// A guest has no network: the control connection goes through its standard input and output (kernel_test.py).

import Foundation
import Testing
import VsockSystem
import VsockTestPrograms

@Suite("The kernel's tests", .serialized, .enabled(if: KernelTestProgram.isAvailable))
struct KernelTests {
    private static let seconds = 240.0

    private let directory: TemporaryDirectory

    init() throws {
        try KernelTestProgram.build()
        directory = try TemporaryDirectory()
    }

    @Test("vsock_test in a guest passes as client of a device's host")
    func guestIsClient() throws {
        let socket = directory.path + "/vm.sock"
        let host = try Program("vsock test", test("server", port: 0) + ["--transport", "device:\(socket),guest-cid=3"])
        let line = try host.waitForLine(containing: "listening", seconds: 20)
        let port = try #require(line.split(separator: ":").last.flatMap { UInt16($0) })
        let guest = try Guest(
            "client", peerCID: 2, socket, control: InternetSocket.connect(host: "127.0.0.1", port: port), directory)
        try guest.expectPassed()
        #expect(try host.end(seconds: Self.seconds) == 0)
    }

    @Test("vsock_test in a guest passes as server of a device's host")
    func guestIsServer() throws {
        let socket = directory.path + "/vm.sock"
        let listener = try InternetSocket.listen(host: "127.0.0.1", port: 0)
        let port = try InternetSocket.localPort(listener.rawValue)
        let host = try Program(
            "vsock test", test("client", port: port) + ["--transport", "device:\(socket),guest-cid=3"])
        // The device is there before it connects.
        guard let control = try InternetSocket.accept(listener.rawValue) else {
            throw ProgramError(description: "vsock test does not connect")
        }
        let guest = try Guest("server", peerCID: 2, socket, control: control, directory)
        try guest.expectPassed()
        #expect(try host.end(seconds: Self.seconds) == 0)
    }

    @Test("vsock_test passes between two guests of one daemon")
    func siblings() throws {
        let sockets = (3...4).map { "\(directory.path)/vm\($0).sock" }
        let daemon = try Program(
            "vsock serve",
            [Place.command, "serve", "--log-level", "warning"]
                + zip(3..., sockets).flatMap { ["--vm", "guest-cid=\($0),socket=\($1),uds-path=\($1).uds"] })
        for _ in sockets { _ = try daemon.waitForLine(containing: "QEMU", seconds: 10) }
        let control = try UnixSocket.makePair(.stream, nonBlocking: false)
        let server = try Guest("server", peerCID: 4, sockets[0], control: control.first, directory)
        let client = try Guest("client", peerCID: 3, sockets[1], control: control.second, directory)
        try client.expectPassed()
        try server.expectPassed()
        try daemon.kill(SIGTERM)
        #expect(try daemon.end(seconds: 10) == 0)
    }

    @Test("vsock_test and vsock test pass against each other over the kernel's loopback")
    func kernelLoopback() throws {
        let socket = directory.path + "/vm.sock"
        let daemon = try Program(
            "vsock serve", [Place.command, "serve", "--socket", socket, "--uds-path", socket + ".uds"])
        _ = try daemon.waitForLine(containing: "QEMU", seconds: 10)
        let run = "python3 \(Place.programs)/kernel_loopback.py \(KernelTestProgram.caseCount)"
        let ours = "\(Place.command) test --transport kernel"
        let guest = try Program(
            "guest",
            [
                Place.command, "guest", "--kernel", "6.12", "--socket", socket, "--module", "vsock_loopback", "--",
                "/bin/sh", "-c",
                """
                \(run) \(ours) -- \(KernelTestProgram.path) && \(run) \(KernelTestProgram.path) -- \(ours) \
                && \(ours) --peer-cid 1
                """,
            ])
        #expect(try guest.end(seconds: Self.seconds) == 0, "\(guest.transcript)")
        try daemon.kill(SIGTERM)
        #expect(try daemon.end(seconds: 10) == 0)
    }

    private func test(_ mode: String, port: UInt16) -> [String] {
        [Place.command, "test", "--mode", mode, "--control-host", "127.0.0.1", "--control-port", "\(port)"]
    }

    /// A guest that runs vsock_test.
    private final class Guest {
        private let child: ChildProcess
        private let log: String

        init(
            _ mode: String, peerCID: UInt32, _ socket: String, control: borrowing OwnedFileDescriptor,
            _ directory: TemporaryDirectory
        ) throws {
            log = "\(directory.path)/\(mode).log"
            _ = FileManager.default.createFile(atPath: log, contents: nil)
            let errors = try FileSystem.open(log, forWriting: true)
            try DescriptorIO.setNonBlocking(control.rawValue, false)
            child = try ChildProcess.spawn(
                Place.command,
                arguments: [
                    "guest", "--kernel", "6.12", "--socket", socket, "--timeout", "\(Int(KernelTests.seconds))", "--",
                    "/usr/bin/python3", "\(Place.programs)/kernel_test.py", KernelTestProgram.path, mode,
                    "--peer-cid", "\(peerCID)",
                ],
                standardInput: control.rawValue, standardOutput: control.rawValue, standardError: errors.rawValue,
                newProcessGroup: true)
        }

        deinit {
            // Fails for a program that has been waited for.
            try? child.kill(SIGKILL)
            _ = try? child.wait(timeoutNanoseconds: 5_000_000_000)
        }

        func expectPassed() throws {
            let status = try child.wait(timeoutNanoseconds: UInt64(KernelTests.seconds * 1e9))
            let said = try String(contentsOfFile: log, encoding: .utf8)
            #expect(status?.shellStatus == 0, "\(said)")
            let passed = said.split(separator: "\n").count { $0.first?.isNumber == true && $0.hasSuffix("...ok") }
            #expect(passed == KernelTestProgram.caseCount, "\(said)")
        }
    }
}
