// SPDX-License-Identifier: Apache-2.0

import Glibc
import Testing
import VsockSystem

@Suite struct RefusalTests {
    @Test("a refused connection names port and path", arguments: [UnixSocketType.stream, .seqpacket])
    func refused(type: UnixSocketType) throws {
        let device = try HybridDevice(type)
        let command = try RunningCommand(device.connectArguments(), inputPath: "/dev/null")
        let client = try device.acceptClient()
        #expect(try readText(client.rawValue, count: 13) == "CONNECT 1234\n")
        _ = consume client
        let result = try command.finish()
        #expect(result.status == 1)
        #expect(result.errorLine?.contains("port 1234 at \(device.path)") == true, "\(result.error)")
        #expect(result.errorLine?.contains("refused the connection") == true, "\(result.error)")
    }

    @Test("a device that closes without reading the request has refused it too")
    func closedAtOnce() throws {
        let device = try HybridDevice()
        let command = try RunningCommand(device.connectArguments(), inputPath: "/dev/null")
        let client = try device.acceptClient()
        _ = consume client
        let result = try command.finish()
        #expect(result.status == 1)
        #expect(result.errorLine?.contains("refused the connection") == true, "\(result.error)")
    }

    @Test("the answer may come in pieces")
    func piecewise() throws {
        let device = try HybridDevice()
        let command = try RunningCommand(device.connectArguments())
        let client = try device.acceptClient()
        #expect(try readText(client.rawValue, count: 13) == "CONNECT 1234\n")
        for byte in "OK 4294967295\nx".utf8 {
            try writeAll(client.rawValue, [byte])
            // Taken before the next one comes.
            if byte != UInt8(ascii: "x") { try poll { try unsentByteCount(client.rawValue) == 0 } }
        }
        #expect(try readText(command.output, count: 1) == "x")
        _ = consume client
        #expect(try command.finish().status == 0)
    }

    @Test(
        "an answer that is not one is quoted, and is no connection",
        arguments: [
            "HTTP/1.1 400 Bad Request\n", "OK\n", "OK x\n", "OK 4294967296\n", "OK -1\n", "\n", "ok 5\n", "OK 5 6\n",
            "\u{1b}[31mred\n", String(repeating: "x", count: 64), String(repeating: "y", count: 5000),
        ])
    func unknownAnswer(answer: String) throws {
        for type in [UnixSocketType.stream, .seqpacket] {
            let device = try HybridDevice(type)
            let command = try RunningCommand(device.connectArguments())
            let client = try device.acceptClient()
            try writeAll(client.rawValue, answer)
            let result = try command.finish()
            #expect(result.status == 1)
            #expect(result.errorLine?.contains("gave an unknown answer") == true, "\(result.error)")
            #expect(!result.error.contains("\u{1b}"))
            _ = consume client
        }
    }

    @Test("random answers end the command in order")
    func garbage() throws {
        let seed: UInt64 = 3
        var generator = SeededGenerator(seed: seed)
        for round in 0..<20 {
            let device = try HybridDevice(round % 2 == 0 ? .stream : .seqpacket)
            let command = try RunningCommand(device.connectArguments())
            let client = try device.acceptClient()
            let count = Int.random(in: 1...200, using: &generator)
            try writeAll(client.rawValue, generator.bytes(count))
            _ = consume client
            let result = try command.finish()
            #expect(result.status == 1, "seed \(seed), round \(round)")
            #expect(result.errorLine != nil, "seed \(seed), round \(round): \(result.error)")
        }
    }

    @Test("a device that does not answer is given up")
    func timeout() throws {
        let device = try HybridDevice()
        let command = try RunningCommand(device.connectArguments(["-w", "1"]))
        let client = try device.acceptClient()
        let result = try command.finish()
        #expect(result.status == 1)
        #expect(result.errorLine?.contains("no answer from \(device.path) within 1 s") == true, "\(result.error)")
        _ = consume client
    }

    @Test("a device that is not there, or has no records, is named with the remedy")
    func noDevice() throws {
        let device = try HybridDevice()
        let other = try RunningCommand(
            ["connect", "--seqpacket"] + device.transport + ["1"], inputPath: "/dev/null"
        ).finish()
        #expect(other.status == 1)
        #expect(other.errorLine?.contains("\(device.path)_seqpacket") == true, "\(other.error)")
        #expect(other.errorLine?.contains("does it offer SOCK_SEQPACKET") == true, "\(other.error)")
        device.stopListening()
        let gone = try RunningCommand(device.connectArguments(), inputPath: "/dev/null").finish()
        #expect(gone.status == 1)
        #expect(
            gone.errorLine
                == "vsock: connect \(device.path): no device is there: "
                + "is it running (vsock serve --uds-path \(device.path))?")
    }

    @Test("a path that is too long, or belongs to a live listener, is refused")
    func badListenPath() throws {
        let long = "/tmp/" + String(repeating: "x", count: 200)
        let tooLong = try RunningCommand(["listen", "--transport", "uds:\(long)", "1"], inputPath: "/dev/null")
        let result = try tooLong.finish()
        #expect(result.status == 1)
        #expect(result.errorLine?.contains("File name too long") == true, "\(result.error)")
        let device = try HybridDevice()
        let live = try UnixListener(UnixAddress(device.path + "_5"), type: .stream)
        let busy = try RunningCommand(["listen"] + device.transport + ["5"], inputPath: "/dev/null").finish()
        #expect(busy.status == 1)
        #expect(busy.errorLine?.contains("Address already in use") == true, "\(busy.error)")
        withExtendedLifetime(live) {}
    }

    @Test("without a peer the kernel's transport fails in one line")
    func kernel() throws {
        // CID 0 is reserved for the hypervisor and no transport of Linux routes to it.
        let result = try RunningCommand(["connect", "-w", "5", "0", "9999"], inputPath: "/dev/null").finish()
        #expect(result.status == 1)
        #expect(result.errorLine != nil, "\(result.error)")
    }
}

/// Bytes that the peer of a Unix socket has not read (SIOCOUTQ).
private func unsentByteCount(_ descriptor: Int32) throws -> Int32 {
    var count: Int32 = 0
    try #require(ioctl(descriptor, UInt(TIOCOUTQ), &count) == 0)
    return count
}
