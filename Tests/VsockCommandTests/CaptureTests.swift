// SPDX-License-Identifier: Apache-2.0
//
// `serve --capture`, `--log-level trace` and `vsock dump`, as users have them: one traffic, told three times alike.

import Glibc
import Testing
import VsockCore
import VsockSystem
import VsockTransport
import VsockWire

@Suite("Captures of the command")
struct CaptureTests {
    private let directory: TemporaryDirectory

    init() throws { directory = try TemporaryDirectory() }

    private func serve(_ cid: UInt32, _ more: [String]) throws -> RunningCommand {
        let vm = ["--guest-cid", "\(cid)", "--socket", socket(cid), "--uds-path", path(cid)]
        return try RunningCommand(["serve"] + vm + more, inputPath: "/dev/null")
    }

    private func socket(_ cid: UInt32) -> String { directory.file("\(cid).sock") }
    private func path(_ cid: UInt32) -> String { directory.file("\(cid).vsock") }

    /// A record from the guest, and a connection that is refused.
    private func exchange(_ cid: UInt32) throws {
        let guest = try SocketDriver(path: socket(cid))
        let listener = try UnixListener(UnixAddress("\(path(cid))_1234"), type: .seqpacket)
        let client = guest.makeSocket(.seqpacket)
        try client.bind(to: VsockAddress(cid: .any, port: 0x10000))
        try client.connect(to: VsockAddress(cid: .host, port: 1234))
        try waitUntil(listener.rawDescriptor, .readable)
        var accepted: OwnedFileDescriptor?
        try poll {
            accepted = try listener.accept()
            return accepted != nil
        }
        guard let host = accepted.take() else { throw Deadline() }
        try Array("hello".utf8).withUnsafeBytes { _ = try client.send($0, SendOptions(endOfRecord: true)) }
        #expect(try readOnce(host.rawValue) == Array("hello".utf8))
        let refused = guest.makeSocket(.stream)
        #expect(throws: SocketError.connectionReset) { try refused.connect(to: VsockAddress(cid: .host, port: 9)) }
        guest.stop()
    }

    private func waitForSockets(_ cid: UInt32) throws {
        try poll { access(socket(cid), F_OK) == 0 && access(path(cid) + "_seqpacket", F_OK) == 0 }
    }

    private func dump(_ path: String) throws -> (lines: [String], result: CommandResult) {
        let command = try RunningCommand(["dump", path], inputPath: "/dev/null")
        let text = try readAllText(command.output)
        return (text.split(separator: "\n").map(String.init), try command.finish())
    }

    @Test(
        "the trace of a daemon, its capture and the dump of that say the same", arguments: ["standard", "rfc-v5"])
    func sameLines(mode: String) throws {
        let file = directory.file("c.pcap")
        let daemon = try serve(3, ["--seqpacket", mode, "--capture", file, "--log-level", "trace"])
        try waitForSockets(3)
        try exchange(3)
        try daemon.kill(SIGTERM)
        let log = try daemon.finish()
        #expect(log.status == 0)
        let trace = log.error.split(separator: "\n").compactMap { line -> String? in
            guard let event = line.firstRange(of: "virtio_transport_"),
                let colon = line[event.upperBound...].firstRange(of: "_pkt: ")
            else { return nil }
            return String(line[colon.upperBound...])
        }
        let (lines, result) = try dump(file)
        #expect(result.status == 0)
        #expect(result.error == "")
        #expect(lines.map { line in line.split(separator: " ").dropFirst().joined(separator: " ") } == trace)
        #expect(lines.first?.hasPrefix("0.000000 3:65536 -> 2:1234 len=0 type=SEQPACKET op=REQUEST flags=0x0 ") == true)
        let data = trace.filter { $0.contains("op=RW") || $0.contains("op=SEQ") }
        if mode == "standard" {
            #expect(data.count == 1)
            #expect(data.first?.contains(" len=5 ") == true)
            #expect(
                data.first?.hasSuffix("flags=0x3 buf_alloc=262144 fwd_cnt=0 msg_len=0 msg_cnt=0 (SEQ_EOM|SEQ_EOR)")
                    == true)
        } else {
            try #require(data.count == 3)
            #expect(
                data[0].hasSuffix(
                    "len=8 type=SEQPACKET op=SEQ_BEGIN flags=0x0 buf_alloc=262144 fwd_cnt=0 msg_len=5 msg_cnt=0"))
            #expect(data[1].hasSuffix("op=RW flags=0x1 buf_alloc=262144 fwd_cnt=0 msg_len=0 msg_cnt=0 (RW_EOR)"))
            #expect(data[2].hasSuffix("op=SEQ_END flags=0x0 buf_alloc=262144 fwd_cnt=0 msg_len=0 msg_cnt=1"))
        }
    }

    @Test("all VMs share the daemon's capture, but one that has its own; it is complete while the daemon runs")
    func files() throws {
        let own = directory.file("own.pcap")
        let shared = directory.file("shared.pcap")
        let daemon = try RunningCommand(
            [
                "serve", "--vm", "guest-cid=3,socket=\(socket(3)),uds-path=\(path(3))",
                "--vm", "guest-cid=4,socket=\(socket(4)),uds-path=\(path(4)),capture=\(own)",
                "--vm", "guest-cid=5,socket=\(socket(5)),uds-path=\(path(5))", "--capture", shared,
            ], inputPath: "/dev/null")
        for cid in 3...5 as ClosedRange<UInt32> {
            try waitForSockets(cid)
            try exchange(cid)
        }
        for (file, cids) in [(own, ["4"]), (shared, ["3", "5"])] {
            let (lines, result) = try dump(file)
            #expect(result.status == 0)
            let sources = lines.compactMap { $0.split(separator: " ").dropFirst().first?.split(separator: ":").first }
            #expect(Set(sources.map(String.init)) == Set(cids + ["2"]))
        }
        // It is another process's now.
        let second = try serve(6, ["--capture", own]).finish()
        #expect(second.status == 1)
        #expect(second.errorLine?.contains("own.pcap: Resource temporarily unavailable (it is being written") == true)
        try daemon.kill(SIGTERM)
        #expect(try daemon.finish().status == 0)
    }

    @Test("a capture that cannot be written is one line")
    func unwritable() throws {
        let result = try serve(3, ["--capture", directory.file("missing/c")]).finish()
        #expect(result.status == 1)
        #expect(result.errorLine == "vsock: open \(directory.file("missing/c")): No such file or directory")
        let short = try serve(3, ["--capture", directory.file("c"), "--capture-snaplen", "83"]).finish()
        #expect(short.status == 64)
        #expect(short.errorLine?.contains("--capture-snaplen is at least 84") == true)
    }

    // MARK: Files for dump

    /// A capture of some packets.
    private func capture(_ operations: [Operation]) throws -> [UInt8] {
        var file = [UInt8](repeating: 0, count: CaptureFormat.fileHeaderByteCount)
        file.withUnsafeMutableBytes {
            CaptureFormat.writeFileHeader(snapLength: CaptureFormat.maximumPacketByteCount, to: $0)
        }
        for (index, operation) in operations.enumerated() {
            var record = [UInt8](repeating: 0, count: 16 + 76)
            let header = PacketHeader(
                sourceCID: 3, destinationCID: 2, sourcePort: 1, destinationPort: 2, type: .stream,
                operation: operation)
            record.withUnsafeMutableBytes { bytes in
                CaptureFormat.writeRecordHeader(
                    time: 5_999_999_000 + UInt64(index) * 1_000_001_000, capturedByteCount: 76, byteCount: 76,
                    to: bytes)
                MonitorHeader(header).write(to: UnsafeMutableRawBufferPointer(rebasing: bytes[16...]))
                header.write(to: UnsafeMutableRawBufferPointer(rebasing: bytes[48...]))
            }
            file += record
        }
        return file
    }

    private func line(_ time: String, _ operation: Operation) -> String {
        "\(time) 3:1 -> 2:2 len=0 type=STREAM op=\(operation) flags=0x0 buf_alloc=0 fwd_cnt=0 msg_len=0 msg_cnt=0"
    }

    @Test("dump reads standard input as it comes")
    func standardInput() throws {
        let command = try RunningCommand(["dump", "-"])
        let file = try capture([.request, .reset])
        try writeAll(command.input, Array(file.dropLast()))
        let first = line("0.000000", .request) + "\n"
        #expect(try readText(command.output, count: first.utf8.count) == first)
        try writeAll(command.input, [file[file.count - 1]])
        command.closeInput()
        #expect(try readAllText(command.output) == line("1.000001", .reset) + "\n")
        let result = try command.finish()
        #expect(result.status == 0)
        #expect(result.error == "")
    }

    @Test("dump prints what is whole of a file that ends early, and then says so")
    func truncated() throws {
        let path = try directory.write(Array(try capture([.request, .response, .reset]).dropLast()), to: "c")
        let (lines, result) = try dump(path)
        #expect(lines == [line("0.000000", .request), line("1.000001", .response)])
        #expect(result.status == 1)
        #expect(result.errorLine == "vsock: \(path) ends in the middle of packet 3")
    }

    @Test("dump tells packets that it cannot read from those that it can, and goes on")
    func foreignPackets() throws {
        var file = try capture([.request, .request, .request])
        // Another transport; and one cut to 20 bytes.
        file[24 + 92 + 16 + 26] = 1
        file.replaceSubrange((24 + 184 + 16 + 20)..., with: try capture([.reset])[24...])
        file.replaceSubrange((24 + 184 + 8)..<(24 + 184 + 12), with: [20, 0, 0, 0])
        let (lines, result) = try dump(try directory.write(file, to: "c"))
        #expect(result.status == 0)
        #expect(
            lines == [
                line("0.000000", .request),
                "1.000001 3:1 -> 2:2 op=CONNECT transport=1 (no header of virtio)",
                "2.000002 20 of 76 bytes (no header)",
                line("0.000000", .reset),
            ])
    }

    @Test("dump refuses what is no capture of vsock in one line that names it")
    func refused() throws {
        var ethernet = try capture([])
        ethernet[20] = 1
        ethernet[21] = 0
        for (bytes, reason) in [
            (ethernet, "has packets of link type 1, not of vsock (271)"),
            (Array("#!/bin/sh\n".utf8), "is no packet capture (pcap)"), ([], "is no packet capture (pcap)"),
            ([0x0a, 0x0d, 0x0d, 0x0a, 0, 0], "is a capture in pcapng; convert it: editcap -F pcap OLD NEW"),
        ] {
            let path = try directory.write(bytes, to: "f\(bytes.count)")
            let (lines, result) = try dump(path)
            #expect(lines == [])
            #expect(result.status == 1)
            #expect(result.errorLine == "vsock: \(path) \(reason)")
        }
        let missing = try dump("/nonexistent/c").result
        #expect(missing.errorLine == "vsock: open /nonexistent/c: No such file or directory")
        #expect(try dump(directory.path).result.errorLine == "vsock: read \(directory.path): Is a directory")
        #expect(try RunningCommand(["dump"], inputPath: "/dev/null").finish().status == 64)
    }

    @Test("dump of garbage ends in order")
    func garbage() throws {
        let seed: UInt64 = 12
        var generator = SeededGenerator(seed: seed)
        let header = try capture([])
        for round in 0..<10 {
            let bytes = (round % 2 == 0 ? header : []) + generator.bytes(Int.random(in: 1...2000, using: &generator))
            let result = try dump(try directory.write(bytes, to: "\(round)")).result
            #expect(result.status == 1, "seed \(seed), round \(round)")
            #expect(result.errorLine != nil, "seed \(seed), round \(round): \(result.error)")
        }
    }
}
