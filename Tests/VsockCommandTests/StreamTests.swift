// SPDX-License-Identifier: Apache-2.0

import Glibc
import Testing
import VsockSystem

@Suite struct StreamTests {
    @Test("bytes that follow the answer at once belong to the connection, and both ends may be shut on their own")
    func handshakeAndHalfClose() throws {
        let device = try HybridDevice()
        let command = try RunningCommand(device.connectArguments())
        let client = try device.connectClient(payload: "first words")
        #expect(try readText(command.output, count: 11) == "first words")
        try writeAll(command.input, "question")
        command.closeInput()
        #expect(try readAllText(client.rawValue) == "question")
        // The command has no more to say, and goes on listening.
        try writeAll(client.rawValue, ", then the answer")
        _ = consume client
        #expect(try readAllText(command.output) == ", then the answer")
        let result = try command.finish()
        #expect(result.status == 0)
        #expect(result.error == "")
    }

    @Test("a peer that sends no more still gets the input")
    func peerHalfCloses() throws {
        let device = try HybridDevice()
        // The CID of the only guest may be given.
        let command = try RunningCommand(["connect"] + device.transport + ["3", "77"])
        let client = try device.connectClient(port: 77, payload: "farewell")
        try SocketOptions.shutdown(client.rawValue, .send)
        #expect(try readText(command.output, count: 8) == "farewell")
        try writeAll(command.input, "still here")
        #expect(try readText(client.rawValue, count: 10) == "still here")
        command.closeInput()
        #expect(try readAllText(client.rawValue) == "")
        #expect(try command.finish().status == 0)
    }

    @Test("with --no-shutdown the end of input is not passed on")
    func noShutdown() throws {
        let device = try HybridDevice()
        let command = try RunningCommand(device.connectArguments(["--no-shutdown"]), inputPath: "/dev/null")
        let client = try device.connectClient()
        try writeAll(client.rawValue, "data")
        #expect(try readText(command.output, count: 4) == "data")
        let events = try DescriptorIO.waitUntilReady(client.rawValue, for: .readHangUp, timeoutNanoseconds: 0)
        #expect(events.isEmpty)
        _ = consume client
        #expect(try command.finish().status == 0)
    }

    @Test("when the peer is gone the command ends, though its input is open")
    func peerGone() throws {
        let device = try HybridDevice()
        let command = try RunningCommand(device.connectArguments())
        let client = try device.connectClient(payload: "bye")
        _ = consume client
        #expect(try readAllText(command.output) == "bye")
        let result = try command.finish()
        #expect(result.status == 0)
        #expect(result.error == "")
    }

    @Test("when the peer closes after it has shut its direction, a command that waits for input ends")
    func peerGoneAfterHalfClose() throws {
        let device = try HybridDevice()
        let command = try RunningCommand(device.connectArguments())
        let client = try device.connectClient()
        try SocketOptions.shutdown(client.rawValue, .send)
        // Proof that the command has gone on.
        try writeAll(command.input, "x")
        #expect(try readText(client.rawValue, count: 1) == "x")
        _ = consume client
        #expect(try command.finish().status == 0)
    }

    @Test("input that the peer does not take is an error in one line")
    func inputLeft() throws {
        let device = try HybridDevice()
        let command = try RunningCommand(device.connectArguments(), inputPath: "/dev/zero")
        let client = try device.connectClient()
        #expect(try read(client.rawValue, count: 100_000).count == 100_000)
        // Nothing unread stays, so that this is an end and no reset.
        try SocketOptions.shutdown(client.rawValue, .receive)
        while try !readOnce(client.rawValue).isEmpty {}
        _ = consume client
        let result = try command.finish()
        #expect(result.status == 1)
        #expect(result.errorLine?.contains("before all of standard input was sent") == true, "\(result.error)")
    }

    @Test("a peer that takes no more is an error after it has ended, and what it says arrives")
    func inputRefused() throws {
        let device = try HybridDevice()
        let command = try RunningCommand(device.connectArguments(), inputPath: "/dev/zero")
        let client = try device.connectClient()
        try SocketOptions.shutdown(client.rawValue, .receive)
        while try !readOnce(client.rawValue).isEmpty {}
        try writeAll(client.rawValue, "enough")
        _ = consume client
        #expect(try readAllText(command.output) == "enough")
        let result = try command.finish()
        #expect(result.status == 1)
        #expect(result.errorLine?.contains("before all of standard input was sent") == true, "\(result.error)")
    }

    @Test("a reset is an error in one line, after what arrived before it")
    func reset() throws {
        let device = try HybridDevice()
        let command = try RunningCommand(device.connectArguments())
        let client = try device.connectClient(payload: "before")
        #expect(try readText(command.output, count: 6) == "before")
        try writeAll(command.input, "never read")
        try waitUntil(client.rawValue, .readable)
        try writeAll(client.rawValue, " and after")
        _ = consume client
        #expect(try readAllText(command.output) == " and after")
        let result = try command.finish()
        #expect(result.status == 1)
        #expect(
            result.errorLine?.hasPrefix("vsock: port 1234 at \(device.path) reset the connection") == true,
            "\(result.error)")
    }

    @Test("64 MiB cross both ways at once", arguments: [true, false])
    func bothWays(fromFile: Bool) throws {
        let device = try HybridDevice()
        var generator = SeededGenerator(seed: 1)
        let up = generator.bytes(64 << 20)
        let down = generator.bytes(64 << 20)
        let path = fromFile ? try device.directory.write(up, to: "input") : nil
        let command = try RunningCommand(device.connectArguments(), inputPath: path)
        let client = try device.connectClient()
        let socket = client.rawValue
        let (input, output) = (command.input, command.output)
        let downSender = try Background {
            try writeAll(socket, down)
            try SocketOptions.shutdown(socket, .send)
        }
        let upReceiver = try Background { try readAll(socket) }
        let downReceiver = try Background { try readAll(output) }
        if !fromFile {
            try writeAll(input, up)
            command.closeInput()
        }
        #expect(try upReceiver.value() == up)
        #expect(try downReceiver.value() == down)
        _ = try downSender.value()
        let result = try command.finish()
        #expect(result.status == 0)
        #expect(result.error == "")
        _ = consume client
    }

    @Test("input goes on while nobody reads the output, and the other way round")
    func independentDirections() throws {
        let device = try HybridDevice()
        let command = try RunningCommand(device.connectArguments())
        let client = try device.connectClient()
        let socket = client.rawValue
        var generator = SeededGenerator(seed: 2)
        let bytes = generator.bytes(8 << 20)
        // Far more than all buffers on the way hold.
        let downSender = try Background { try writeAll(socket, bytes) }
        let upReceiver = try Background { try read(socket, count: 8 << 20) }
        try writeAll(command.input, bytes)
        #expect(try upReceiver.value() == bytes)
        #expect(try read(command.output, count: 8 << 20) == bytes)
        _ = try downSender.value()
        command.closeInput()
        _ = consume client
        #expect(try command.finish().status == 0)
    }

    @Test("a closed standard output ends the command with status 1 and without a word")
    func outputClosed() throws {
        let device = try HybridDevice()
        let command = try RunningCommand(device.connectArguments())
        let client = try device.connectClient()
        command.closeOutput()
        // More than a pipe holds: a child that another test is starting has the reading end for a moment.
        let bytes = [UInt8](repeating: 0x2e, count: 150_000)
        #expect(bytes.withUnsafeBytes { DescriptorIO.send(client.rawValue, from: $0) } == .count(bytes.count))
        let result = try command.finish()
        #expect(result.status == 1)
        #expect(result.error == "")
        _ = consume client
    }

    @Test("a standard input that cannot be read is an error in one line")
    func inputIsDirectory() throws {
        let device = try HybridDevice()
        let command = try RunningCommand(device.connectArguments(), inputPath: "/tmp")
        let client = try device.connectClient()
        #expect(try readAllText(client.rawValue) == "")
        let result = try command.finish()
        #expect(result.status == 1)
        #expect(result.errorLine == "vsock: standard input cannot be read: Is a directory")
    }

    @Test("SIGTERM ends it as it ends other programs")
    func terminate() throws {
        let device = try HybridDevice()
        let command = try RunningCommand(device.connectArguments())
        let client = try device.connectClient()
        try command.kill(SIGTERM)
        #expect(try command.finish().status == 128 + SIGTERM)
        _ = consume client
    }
}
