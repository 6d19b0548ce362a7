// SPDX-License-Identifier: Apache-2.0
//
// The examples as a user runs them: real processes, joined by the transports that they are given.

import Testing
import VsockSystem
import VsockTestPrograms

@Suite("Examples", .timeLimit(.minutes(10)))
struct ExampleTests {
    /// Longest wait for a line or an end: the machine may be busy with other tests.
    private static let seconds: Double = 60

    private let directory: TemporaryDirectory
    private let socket: String

    init() throws {
        directory = try TemporaryDirectory()
        socket = directory.path + "/vm.sock"
    }

    /// Starts an example or the command, which are built beside the tests.
    private func start(_ name: String, _ arguments: [String]) throws -> Program {
        let path = CurrentProcess.executablePath
        let folder = path[..<(path.lastIndex(of: "/") ?? path.startIndex)]
        return try Program(name, ["\(folder)/\(name)"] + arguments)
    }

    /// Starts one that listens, and waits until it says so.
    private func listen(_ name: String, _ arguments: [String], says text: String = "listening") throws -> Program {
        let program = try start(name, arguments)
        _ = try program.waitForLine(containing: text, seconds: Self.seconds)
        return program
    }

    /// A device daemon for one VM; the path of the host's sockets.
    private func serve() throws -> (daemon: Program, path: String) {
        let path = directory.path + "/vm"
        let arguments = ["serve", "--guest-cid", "3", "--socket", socket, "--uds-path", path]
        return (try listen("vsock", arguments, says: "QEMU"), path)
    }

    /// Runs a program to its end; what it said.
    private func run(_ name: String, _ arguments: [String]) throws -> [String] {
        let program = try start(name, arguments)
        var lines: [String] = []
        while let line = try program.nextLine(seconds: Self.seconds) { lines.append(line) }
        let status = try program.end(seconds: Self.seconds)
        #expect(status == 0, "\(name) \(arguments) said \(lines)")
        return lines
    }

    @Test("the record client gets its requests back from the echo server: driver to device")
    func echoOnDevice() throws {
        let server = try listen("EchoServer", ["device:\(socket)", "1234", "seqpacket"])
        for round in 1...2 {
            let answers = try run("RecordClient", ["driver:\(socket)", "2:1234", "one", "two words", "round \(round)"])
            #expect(answers == ["one", "two words", "round \(round)"])
        }
        try server.kill(Signal.terminate)
    }

    @Test("the record client gets its requests back from the echo server: a host program to a driver")
    func echoOnDriver() throws {
        let (daemon, path) = try serve()
        let server = try listen("EchoServer", ["driver:\(socket)", "1234", "seqpacket"])
        #expect(try run("RecordClient", ["uds:\(path)", "3:1234", "one", "two words"]) == ["one", "two words"])
        try server.kill(Signal.terminate)
        try daemon.kill(Signal.terminate)
    }

    @Test("the echo server sends a stream back, to several clients")
    func echoStream() throws {
        let (daemon, path) = try serve()
        let server = try listen("EchoServer", ["driver:\(socket)", "1234"])
        let clients = try (1...3).map { _ in try start("vsock", ["connect", "--transport", "uds:\(path)", "1234"]) }
        for (number, client) in clients.enumerated() {
            try client.write("client \(number)")
            #expect(try client.nextLine(seconds: Self.seconds) == "client \(number)")
        }
        for client in clients {
            client.closeInput()
            #expect(try client.end(seconds: Self.seconds) == 0)
        }
        try server.kill(Signal.terminate)
        try daemon.kill(Signal.terminate)
    }

    @Test("the embedded device answers a guest, and the next one")
    func embeddedDevice() throws {
        let device = try listen("EmbeddedDevice", [socket, "1234"], says: "vhost-user-vsock-pci")
        for text in ["hello", "again"] {
            let answers = try run("RecordClient", ["driver:\(socket)", "2:1234", text, "bye"])
            #expect(answers == ["5 bytes from 3", "3 bytes from 3"])
            _ = try device.waitForLine(containing: "says: \(text)", seconds: Self.seconds)
            _ = try device.waitForLine(containing: "says: bye", seconds: Self.seconds)
        }
        try device.kill(Signal.terminate)
    }

    @Test(
        "a program that is called wrongly says how it is called",
        arguments: ["EchoServer", "RecordClient", "EmbeddedDevice", "Conversation"])
    func usage(name: String) throws {
        let program = try start(name, [])
        #expect(try program.end(seconds: Self.seconds) == 64)
        #expect(program.transcript.hasPrefix("usage: \(name) "))
    }

    // MARK: One program, every transport

    /// What the connecting side of Conversation says, on whatever transport.
    private static let conversation = [
        "nobody there: ECONNRESET", "record: 1 of 1 bytes", "record: 1000 of 1000 bytes",
        "record: 100000 of 100000 bytes", "record: too , 8 bytes, cut", "record: next, 4 bytes",
        "records at once: 20 of 20 intact", "records end: true",
        "stream: 3000000 bytes out, 3000000 back, equal", "stream ends: true",
    ]

    @Test("the same program runs over loopback", arguments: ["loopback", "loopback,seqpacket=rfc-v5"])
    func loopback(transport: String) throws {
        #expect(try run("Conversation", [transport]) == ["listening"] + Self.conversation)
    }

    @Test("the same program runs over device and driver", arguments: ["", ",seqpacket=rfc-v5"])
    func deviceAndDriver(mode: String) throws {
        let server = try listen("Conversation", ["device:\(socket)\(mode)", "listen"])
        #expect(try run("Conversation", ["driver:\(socket)", "connect"]) == Self.conversation)
        #expect(try server.end(seconds: Self.seconds) == 0)
    }

    @Test("the same program runs over hybrid sockets and a driver, whoever connects", arguments: [true, false])
    func hybridAndDriver(isHostListening: Bool) throws {
        let (daemon, path) = try serve()
        let transports = ["uds:\(path)", "driver:\(socket)"]
        let server = try listen("Conversation", [transports[isHostListening ? 0 : 1], "listen"])
        #expect(try run("Conversation", [transports[isHostListening ? 1 : 0], "connect"]) == Self.conversation)
        #expect(try server.end(seconds: Self.seconds) == 0)
        try daemon.kill(Signal.terminate)
    }
}
