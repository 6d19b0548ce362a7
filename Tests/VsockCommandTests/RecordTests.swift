// SPDX-License-Identifier: Apache-2.0

import Glibc
import Testing
import VsockSystem

@Suite struct RecordTests {
    @Test("a line is a record and a record is a line; the last line needs no newline")
    func lines() throws {
        let device = try HybridDevice(.seqpacket)
        let command = try RunningCommand(device.connectArguments())
        let client = try device.connectClient()
        try writeAll(client.rawValue, "eins")
        try writeAll(client.rawValue, "zwei drei")
        #expect(try readText(command.output, count: 15) == "eins\nzwei drei\n")
        try writeAll(command.input, "one\ntwo three\nfour")
        #expect(try readRecord(client.rawValue) == "one")
        #expect(try readRecord(client.rawValue) == "two three")
        command.closeInput()
        #expect(try readRecord(client.rawValue) == "four")
        #expect(try readRecord(client.rawValue) == "")
        try writeAll(client.rawValue, "after the end")
        _ = consume client
        #expect(try readAllText(command.output) == "after the end\n")
        let result = try command.finish()
        #expect(result.status == 0)
        #expect(result.error == "")
    }

    @Test("empty lines are skipped, which is said once")
    func emptyLines() throws {
        let device = try HybridDevice(.seqpacket)
        let command = try RunningCommand(device.connectArguments())
        let client = try device.connectClient()
        try writeAll(command.input, "\n\na\n\nb\n\n")
        command.closeInput()
        #expect(try readRecord(client.rawValue) == "a")
        #expect(try readRecord(client.rawValue) == "b")
        #expect(try readRecord(client.rawValue) == "")
        _ = consume client
        let result = try command.finish()
        #expect(result.status == 0)
        #expect(result.errorLine?.contains("empty lines are skipped") == true, "\(result.error)")
    }

    @Test("an empty record is an empty line and not the end, even when the end waits behind it")
    func emptyRecords() throws {
        let device = try HybridDevice(.seqpacket)
        let command = try RunningCommand(device.connectArguments())
        let client = try device.connectClient()
        // Records and end are there before the first is read.
        try command.kill(SIGSTOP)
        for record in ["", "a", "", "", "b", "", ""] {
            let sent = Array(record.utf8).withUnsafeBytes { DescriptorIO.send(client.rawValue, from: $0) }
            #expect(sent == .count(record.utf8.count))
        }
        try SocketOptions.shutdown(client.rawValue, .send)
        try command.kill(SIGCONT)
        #expect(try readText(command.output, count: 9) == "\na\n\n\nb\n\n\n")
        command.closeInput()
        #expect(try readAllText(command.output) == "")
        #expect(try command.finish().status == 0)
        _ = consume client
    }

    @Test("records of 1 byte to 1 MiB keep their bounds, both ways", arguments: [UInt64(4), 5])
    func sizes(seed: UInt64) throws {
        var generator = SeededGenerator(seed: seed)
        var sizes = [1, 2, 4095, 4096, 4097, 65_535, 65_536, 65_537, 262_143, 262_144, 262_145, 262_144 * 2]
        for _ in 0..<300 { sizes.append(Int.random(in: 1...2000, using: &generator)) }
        for _ in 0..<20 { sizes.append(Int.random(in: 1...300_000, using: &generator)) }
        let newline = UInt8(ascii: "\n")
        let records = sizes.shuffled(using: &generator).map { generator.bytes($0, excluding: newline) }
        let device = try HybridDevice(.seqpacket)
        // The kernel grants twice net.core.wmem_max, and records as large as that, less a little.
        let probe = try UnixSocket.makePair(.seqpacket, nonBlocking: true)
        try SocketOptions.setSendBuffer(probe.first.rawValue, byteCount: 4 << 20)
        let limit = try SocketOptions.sendBuffer(probe.first.rawValue) - 4096
        let sent = records.filter { $0.count <= limit }
        #expect(limit >= 262_145)
        let command = try RunningCommand(device.connectArguments())
        let client = try device.connectClient()
        let socket = client.rawValue
        let echo = try Background { [sent] in
            var received: [[UInt8]] = []
            while received.count < sent.count {
                let record = try readOnce(socket)
                received.append(record)
                try sendRecord(socket, record)
            }
            return received
        }
        let (input, output) = (command.input, command.output)
        let writer = try Background { [sent] in
            for record in sent { try writeAll(input, record + [newline]) }
        }
        let expected = sent.flatMap { $0 + [newline] }
        let lines = try read(output, count: expected.count)
        _ = try writer.value()
        #expect(try echo.value() == sent, "seed \(seed)")
        #expect(lines == expected, "seed \(seed)")
        command.closeInput()
        _ = consume client
        #expect(try command.finish().status == 0)
    }

    @Test("with --null a zero byte ends a record, and newlines are data")
    func nullSeparated() throws {
        let device = try HybridDevice(.seqpacket)
        let command = try RunningCommand(device.connectArguments(["-0"]))
        let client = try device.connectClient()
        try writeAll(command.input, "a\nb\0c\0")
        #expect(try readRecord(client.rawValue) == "a\nb")
        #expect(try readRecord(client.rawValue) == "c")
        try writeAll(client.rawValue, "x\ny")
        #expect(try readText(command.output, count: 4) == "x\ny\0")
        _ = consume client
        #expect(try command.finish().status == 0)
    }

    @Test("with --record-size input is cut by length, and output has no separators")
    func recordSize() throws {
        let device = try HybridDevice(.seqpacket)
        let path = try device.directory.write(Array("aaaa\n\n\n\nbbbb\0c".utf8), to: "input")
        let command = try RunningCommand(device.connectArguments(["--record-size", "4"]), inputPath: path)
        let client = try device.connectClient()
        for record in ["aaaa", "\n\n\n\n", "bbbb", "\0c", ""] { #expect(try readRecord(client.rawValue) == record) }
        try writeAll(client.rawValue, "one\n")
        try writeAll(client.rawValue, "two")
        _ = consume client
        #expect(try readAllText(command.output) == "one\ntwo")
        let result = try command.finish()
        #expect(result.status == 0)
        #expect(result.error == "")
    }

    @Test("a record that the socket does not carry ends the command in one line, after those before it")
    func tooLarge() throws {
        let device = try HybridDevice(.seqpacket)
        let command = try RunningCommand(device.connectArguments(["--buffer-size", "8192"]))
        let client = try device.connectClient()
        try writeAll(command.input, "small\n" + String(repeating: "x", count: 60_000) + "\nnever\n")
        #expect(try readRecord(client.rawValue) == "small")
        #expect(try readRecord(client.rawValue) == "")
        let result = try command.finish()
        #expect(result.status == 1)
        #expect(
            result.errorLine?.hasPrefix("vsock: a record of 60000 bytes is too large for port 1234 at") == true,
            "\(result.error)")
        _ = consume client
    }

    // It reads 16 MiB byte for byte: minutes under a sanitizer.
    @Test("input without an end of record is refused before it fills the memory", .disabled(if: isSanitized))
    func unbounded() throws {
        let device = try HybridDevice(.seqpacket)
        let command = try RunningCommand(device.connectArguments(), inputPath: "/dev/zero")
        let client = try device.connectClient()
        let result = try command.finish()
        #expect(result.status == 1)
        #expect(result.errorLine?.contains("without an end of record") == true, "\(result.error)")
        _ = consume client
    }

    @Test("a peer that is gone with records unsent is an error")
    func inputLeft() throws {
        let device = try HybridDevice(.seqpacket)
        let command = try RunningCommand(device.connectArguments(["--record-size", "1000"]), inputPath: "/dev/zero")
        let client = try device.connectClient()
        #expect(try readOnce(client.rawValue).count == 1000)
        _ = consume client
        let result = try command.finish()
        #expect(result.status == 1)
        #expect(result.errorLine?.hasPrefix("vsock: port 1234 at") == true, "\(result.error)")
    }

    private func readRecord(_ descriptor: Int32) throws -> String {
        String(decoding: try readOnce(descriptor), as: UTF8.self)
    }
}

/// Sends one record, waiting for room.
func sendRecord(_ descriptor: Int32, _ record: [UInt8]) throws {
    while true {
        switch record.withUnsafeBytes({ DescriptorIO.send(descriptor, from: $0) }) {
        case .count(let count):
            #expect(count == record.count)
            return
        case .wouldBlock: try waitUntil(descriptor, .writable)
        case .failed(let errno): throw errno
        }
    }
}
