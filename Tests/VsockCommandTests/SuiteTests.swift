// SPDX-License-Identifier: Apache-2.0
//
// `vsock test` against itself: both sides in one process, and a device against a driver in two.

import Glibc
import Testing
import VsockSystem

@Suite("vsock test")
struct SuiteTests {
    static let suites = ["linux-6.12": 26, "rfc-v5": 8]

    @Test("both sides in one process pass over a loopback", arguments: suites.keys.sorted(), ["standard", "rfc-v5"])
    func loopback(suite: String, framing: String) throws {
        let command = try RunningCommand(
            ["test", "--suite", suite, "--transport", "loopback,seqpacket=\(framing)"], inputPath: "/dev/null")
        let output = try readAllText(command.output)
        #expect(try command.finish().status == 0)
        // The only case that the framing does not have.
        let hasLimit = suite == "linux-6.12" && framing == "rfc-v5"
        try expectPassed(output, suite, skipping: hasLimit ? ["SOCK_SEQPACKET big message"] : [])
    }

    @Test(
        "a device and a driver in two processes pass in both roles", arguments: suites.keys.sorted(),
        [true, false])
    func deviceAndDriver(suite: String, isDeviceServer: Bool) throws {
        let directory = try TemporaryDirectory()
        let socket = directory.file("vm.sock")
        let framing = suite == "rfc-v5" ? "rfc-v5" : "standard"
        let device = "device:\(socket),guest-cid=9,seqpacket=\(framing)"
        let driver = "driver:\(socket)"
        try run(suite, server: isDeviceServer ? device : driver, client: isDeviceServer ? driver : device)
    }

    @Test("a device and a program on the hybrid sockets pass what these carry", arguments: [true, false])
    func hybrid(isHybridServer: Bool) throws {
        let directory = try TemporaryDirectory()
        let socket = directory.file("vm.sock")
        let path = directory.file("vm.vsock")
        let device = try RunningCommand(["serve", "--socket", socket, "--uds-path", path])
        try poll { access(socket, F_OK) == 0 }
        let (guest, host) = ("driver:\(socket)", "uds:\(path)")
        try run(
            "linux-6.12", server: isHybridServer ? host : guest, client: isHybridServer ? guest : host,
            skipping: [
                "SOCK_SEQPACKET msg bounds", "SOCK_SEQPACKET big message", "SOCK_STREAM double bind connect",
                "SOCK_STREAM virtio credit update + SO_RCVLOWAT", "SOCK_STREAM virtio credit update + low rx_bytes",
            ])
        try device.kill(SIGTERM)
        #expect(try device.finish().status == 0)
    }

    @Test("cases are picked and left out, and both sides agree about it")
    func pickAndSkip() throws {
        let command = try RunningCommand(
            ["test", "--transport", "loopback", "--pick", "2", "--pick", "5", "--skip", "5"], inputPath: "/dev/null")
        let lines = try readAllText(command.output).split(separator: "\n")
        #expect(try command.finish().status == 0)
        #expect(
            lines.filter { $0.hasSuffix("...ok") }.map(String.init) == [
                "2 - SOCK_STREAM client close...ok", "All tests have been executed. Waiting other peer...ok",
            ])
        #expect(lines.count { $0.hasSuffix("...skipped") } == 25)
    }

    @Test("the list is the kernel's, with a remark where this program does something else")
    func list() throws {
        for (suite, count) in Self.suites {
            let command = try RunningCommand(["test", "--list", "--suite", suite], inputPath: "/dev/null")
            let lines = try readAllText(command.output).split(separator: "\n")
            #expect(try command.finish().status == 0)
            #expect(lines.first == "ID\tTest name")
            #expect(lines.count == count + 1)
            #expect(lines[1] == "0\tSOCK_STREAM connection reset")
            #expect(lines.contains { $0.hasPrefix("18\tSOCK_STREAM MSG_ZEROCOPY\t(") } == (count == 26))
        }
    }

    @Test("a peer that is out of step, goes, or is none, is told in one line")
    func outOfStep() throws {
        for (answer, complaint) in [
            ("NEXT\nHUH\n", "\"HUH\" came on the control connection"), ("SKOP\n", "is that the same suite?"),
            ("", "the other side ended the control connection"),
            (String(repeating: "x", count: 5000), "a line without end"), ("\n\n\n", "\"\" came"),
        ] {
            let listener = try InternetSocket.listen(host: "127.0.0.1", port: 0)
            let port = try InternetSocket.localPort(listener.rawValue)
            let command = try RunningCommand(
                [
                    "test", "--mode", "client", "--control-host", "127.0.0.1", "--control-port", "\(port)",
                    "--transport", "uds:/nowhere", "--skip", "0",
                ], inputPath: "/dev/null")
            try waitUntil(listener.rawValue, .readable)
            guard let control = try InternetSocket.accept(listener.rawValue) else { throw Deadline() }
            // The first case is left out, whatever is answered.
            try writeAll(control.rawValue, Array("NEXT\n\(answer)".utf8))
            try SocketOptions.shutdown(control.rawValue, .send)
            let result = try command.finish()
            #expect(result.status == 1)
            #expect(result.errorLine?.contains(complaint) == true, "\(answer): \(result.error)")
        }
    }

    private func run(_ suite: String, server: String, client: String, skipping: Set<String> = []) throws {
        let common = ["test", "--suite", suite, "--control-host", "127.0.0.1", "--control-port"]
        let listening = try RunningCommand(common + ["0", "--mode", "server", "--transport", server])
        let line = try readLine(listening.output)
        let port = try #require(line.split(separator: ":").last.map(String.init))
        let connecting = try RunningCommand(common + [port, "--mode", "client", "--transport", client])
        let clientOutput = try readAllText(connecting.output)
        let serverOutput = try readAllText(listening.output)
        let clientResult = try connecting.finish()
        let serverResult = try listening.finish()
        #expect(clientResult.status == 0, "\(clientOutput)\(clientResult.error)")
        #expect(serverResult.status == 0, "\(serverOutput)\(serverResult.error)")
        try expectPassed(clientOutput, suite, skipping: skipping)
        try expectPassed(serverOutput, suite, skipping: skipping)
    }

    /// All cases of a suite but those that are left out.
    private func expectPassed(_ output: String, _ suite: String, skipping: Set<String>) throws {
        let cases = output.split(separator: "\n").filter { $0.first?.isNumber == true }
        #expect(cases.count == Self.suites[suite], "\(output)")
        for line in cases {
            let name = try #require(line.split(separator: "...").first?.split(separator: " - ").last.map(String.init))
            let expected = skipping.contains(name) ? "...skipped" : "...ok"
            #expect(line.contains(expected), "\(output)")
        }
    }

    /// The first line.
    private func readLine(_ descriptor: Int32) throws -> String {
        var line = ""
        while !line.hasSuffix("\n") { line += try readText(descriptor, count: 1) }
        return String(line.dropLast())
    }
}
