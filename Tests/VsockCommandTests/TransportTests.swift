// SPDX-License-Identifier: Apache-2.0
//
// `--transport` of connect and listen, with the command itself at both ends: one process is the host of a VM, the other
// its guest.

import Glibc
import Testing
import VsockSystem

@Suite struct TransportTests {
    @Test("a driver connects to a device", arguments: [true, false])
    func driverConnects(seqpacket: Bool) throws {
        let directory = try TemporaryDirectory()
        let socket = directory.file("vm.sock")
        let type = seqpacket ? ["--seqpacket"] : []
        // The device comes first: a driver connects to it when it starts.
        let host = try RunningCommand(
            ["listen", "-v", "--transport", "device:\(socket),guest-cid=7"] + type + ["1234"])
        try poll { access(socket, F_OK) == 0 }
        let guest = try RunningCommand(["connect", "--transport", "driver:\(socket)"] + type + ["host", "1234"])
        try converse(guest, host)
        #expect(try guest.finish().status == 0)
        let result = try host.finish()
        #expect(result.status == 0, "\(result.error)")
        #expect(result.error.contains("listening on port 1234 of device:\(socket),guest-cid=7"), "\(result.error)")
        #expect(result.error.contains("connection of vsock:7:"), "\(result.error)")
        // The device's socket goes with it.
        #expect(access(socket, F_OK) != 0)
    }

    @Test("a driver listens", arguments: [true, false])
    func driverListens(seqpacket: Bool) throws {
        let directory = try TemporaryDirectory()
        let socket = directory.file("vm.sock")
        let path = directory.file("vm.vsock")
        let type = seqpacket ? ["--seqpacket"] : []
        let device = try RunningCommand(["serve", "--guest-cid", "7", "--socket", socket, "--uds-path", path])
        try poll { access(socket, F_OK) == 0 }
        let guest = try RunningCommand(["listen", "-v", "--transport", "driver:\(socket)"] + type + ["1234"])
        try poll { try guest.errorSoFar().contains("listening on port 1234") }
        let host = try RunningCommand(["connect", "--transport", "uds:\(path)"] + type + ["1234"])
        try converse(host, guest)
        #expect(try host.finish().status == 0)
        let result = try guest.finish()
        #expect(result.status == 0, "\(result.error)")
        #expect(result.error.contains("connection of vsock:2:"), "\(result.error)")
        try device.kill(SIGTERM)
        #expect(try device.finish().status == 0)
    }

    /// Lines both ways; both directions end on their own, and what was sent last arrives.
    private func converse(_ first: RunningCommand, _ second: RunningCommand) throws {
        try writeAll(first.input, "question\n")
        try #require(try readText(second.output, count: 9) == "question\n")
        try writeAll(second.input, "answer\n")
        try #require(try readText(first.output, count: 7) == "answer\n")
        try writeAll(first.input, "the last\n")
        first.closeInput()
        #expect(try readText(second.output, count: 9) == "the last\n")
        try writeAll(second.input, "the very last\n")
        second.closeInput()
        #expect(try readText(first.output, count: 14) == "the very last\n")
    }

    @Test("what is sent before both ends close arrives whole, however much", arguments: [true, false])
    func bulk(driverSends: Bool) throws {
        let directory = try TemporaryDirectory()
        let socket = directory.file("vm.sock")
        var generator = SeededGenerator(seed: 6)
        let bytes = generator.bytes(8 << 20)
        let input = try directory.write(bytes, to: "input")
        let device = ["listen", "--transport", "device:\(socket)", "1234"]
        let driver = ["connect", "--transport", "driver:\(socket)", "2", "1234"]
        let host = try RunningCommand(device, inputPath: driverSends ? "/dev/null" : input)
        try poll { access(socket, F_OK) == 0 }
        let guest = try RunningCommand(driver, inputPath: driverSends ? input : "/dev/null")
        #expect(try readAll(driverSends ? host.output : guest.output) == bytes)
        #expect(try guest.finish().status == 0)
        #expect(try host.finish().status == 0)
    }

    @Test("nobody listens on a loopback of this process, which is said in one line")
    func loopback() throws {
        let result = try RunningCommand(["connect", "--transport", "loopback", "1", "5"], inputPath: "/dev/null")
            .finish()
        #expect(result.status == 1)
        #expect(result.errorLine?.contains("connect vsock:1:5: Connection reset by peer") == true, "\(result.error)")
    }

    @Test("a port that nobody listens on is refused at once")
    func refused() throws {
        let directory = try TemporaryDirectory()
        let socket = directory.file("vm.sock")
        let host = try RunningCommand(["listen", "--transport", "device:\(socket)", "1234"])
        try poll { access(socket, F_OK) == 0 }
        let guest = try RunningCommand(
            ["connect", "--transport", "driver:\(socket)", "2", "1235"], inputPath: "/dev/null"
        ).finish()
        #expect(guest.status == 1)
        #expect(guest.errorLine?.contains("is a program listening on port 1235 there?") == true, "\(guest.error)")
        withExtendedLifetime(host) {}
    }

    @Test("a transport that cannot be opened, or reaches another, is named in one line")
    func unusable() throws {
        let directory = try TemporaryDirectory()
        let socket = directory.file("vm.sock")
        let noDevice = try RunningCommand(["connect", "--transport", "driver:\(socket)", "2", "5"]).finish()
        #expect(noDevice.status == 1)
        #expect(noDevice.errorLine?.contains("driver:\(socket)") == true, "\(noDevice.error)")
        let noMonitor = try RunningCommand(["connect", "-w", "1", "--transport", "device:\(socket)", "5"]).finish()
        #expect(noMonitor.status == 1)
        #expect(noMonitor.errorLine?.contains("has a VM connected to \(socket)") == true, "\(noMonitor.error)")
        let foreign = try RunningCommand(["connect", "--transport", "device:\(socket)", "9", "5"]).finish()
        #expect(foreign.status == 1)
        #expect(foreign.errorLine?.contains("reaches its guest, CID 3") == true, "\(foreign.error)")
        let noDirectory = try RunningCommand(["listen", "--transport", "device:\(socket)/x", "5"]).finish()
        #expect(noDirectory.status == 1)
        #expect(noDirectory.errorLine?.contains("\(socket)/x") == true, "\(noDirectory.error)")
    }

    @Test("what crosses is captured, and can be printed", arguments: ["listen", "connect"])
    func capture(command: String) throws {
        let directory = try TemporaryDirectory()
        let socket = directory.file("vm.sock")
        let file = directory.file("packets.pcap")
        let captures = ["--capture", file]
        let host = try RunningCommand(
            ["listen", "--transport", "device:\(socket)", "--seqpacket"] + (command == "listen" ? captures : []) + ["9"]
        )
        try poll { access(socket, F_OK) == 0 }
        let guest = try RunningCommand(
            ["connect", "--transport", "driver:\(socket)", "--seqpacket"] + (command == "connect" ? captures : [])
                + ["2", "9"])
        try converse(guest, host)
        #expect(try guest.finish().status == 0)
        #expect(try host.finish().status == 0)
        let dump = try RunningCommand(["dump", file], inputPath: "/dev/null")
        let lines = try readAllText(dump.output).split(separator: "\n")
        #expect(try dump.finish().status == 0)
        #expect(lines.first?.contains("REQUEST") == true, "\(lines)")
        #expect(lines.count { $0.contains("op=RW") } == 4, "\(lines)")
    }
}
