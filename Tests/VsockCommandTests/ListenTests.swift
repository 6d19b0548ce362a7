// SPDX-License-Identifier: Apache-2.0

import Glibc
import Testing
import VsockSystem

@Suite struct ListenTests {
    @Test("one connection is relayed, and the socket's file goes", arguments: [UnixSocketType.stream, .seqpacket])
    func once(type: UnixSocketType) throws {
        let directory = try TemporaryDirectory()
        let path = directory.file("vm.vsock")
        let command = try RunningCommand(arguments(path, type))
        let guest = try connectAsGuest(to: path + "_1234", type)
        let newline = type == .stream ? "" : "\n"
        try writeAll(guest.rawValue, "hello")
        #expect(try readText(command.output, count: 5 + newline.count) == "hello" + newline)
        // Taken: nobody listens any more.
        #expect(access(path + "_1234", F_OK) != 0)
        try writeAll(command.input, "welcome")
        command.closeInput()
        #expect(try readText(guest.rawValue, count: 7) == "welcome")
        #expect(try readOnce(guest.rawValue).isEmpty)
        _ = consume guest
        let result = try command.finish()
        #expect(result.status == 0)
        #expect(result.error == "")
    }

    @Test("with --keep-open connections follow each other, and each gets the input that comes in its time")
    func keepOpen() throws {
        let directory = try TemporaryDirectory()
        let path = directory.file("vm.vsock")
        let command = try RunningCommand(arguments(path, .stream, ["--keep-open"]))
        for round in 0..<20 {
            let guest = try connectAsGuest(to: path + "_1234", .stream)
            try writeAll(guest.rawValue, "round \(round)\n")
            #expect(try readText(command.output, count: "round \(round)\n".count) == "round \(round)\n")
            try writeAll(command.input, "reply \(round)\n")
            #expect(try readText(guest.rawValue, count: "reply \(round)\n".count) == "reply \(round)\n")
        }
        try command.kill(SIGTERM)
        let result = try command.finish()
        #expect(result.status == 128 + SIGTERM)
        #expect(result.error == "")
    }

    @Test("with --keep-open and no input, every peer sees the end at once and may send all the same")
    func collects() throws {
        let directory = try TemporaryDirectory()
        let path = directory.file("vm.vsock")
        let command = try RunningCommand(arguments(path, .seqpacket, ["-k"]), inputPath: "/dev/null")
        for round in 0..<5 {
            let guest = try connectAsGuest(to: path + "_1234", .seqpacket)
            #expect(try readOnce(guest.rawValue).isEmpty)
            try sendRecord(guest.rawValue, Array("report \(round)".utf8))
        }
        var text = ""
        while text.filter({ $0 == "\n" }).count < 5 {
            text += String(decoding: try readOnce(command.output), as: UTF8.self)
        }
        #expect(text == (0..<5).map { "report \($0)\n" }.joined())
    }

    @Test("with --keep-open a reset connection is reported, and the next one is taken")
    func keepOpenAfterReset() throws {
        let directory = try TemporaryDirectory()
        let path = directory.file("vm.vsock")
        let command = try RunningCommand(arguments(path, .stream, ["-k", "-v"]))
        let first = try connectAsGuest(to: path + "_1234", .stream)
        try writeAll(command.input, "unread")
        try waitUntil(first.rawValue, .readable)
        _ = consume first
        let second = try connectAsGuest(to: path + "_1234", .stream)
        try writeAll(second.rawValue, "second")
        #expect(try readText(command.output, count: 6) == "second")
        let error = try command.errorSoFar()
        #expect(error.hasPrefix("vsock: listening on \(path)_1234\n"), "\(error)")
        #expect(error.contains("vsock: the guest at \(path)_1234 reset the connection"), "\(error)")
        _ = consume second
    }

    @Test("a socket that a listener left behind is replaced")
    func stale() throws {
        let directory = try TemporaryDirectory()
        let path = directory.file("vm.vsock")
        let first = try RunningCommand(arguments(path, .stream))
        try poll { access(path + "_1234", F_OK) == 0 }
        try first.kill(SIGKILL)
        _ = try first.finish()
        let second = try RunningCommand(arguments(path, .stream))
        let guest = try connectAsGuest(to: path + "_1234", .stream)
        try writeAll(guest.rawValue, "x")
        #expect(try readText(second.output, count: 1) == "x")
        _ = consume guest
    }

    private func arguments(_ path: String, _ type: UnixSocketType, _ more: [String] = []) -> [String] {
        ["listen"] + (type == .seqpacket ? ["--seqpacket"] : []) + ["--transport", "uds:\(path)"] + more + ["1234"]
    }
}
