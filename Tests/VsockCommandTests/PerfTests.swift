// SPDX-License-Identifier: Apache-2.0
//
// `vsock perf` moves what it is told to, over each of its ways, and reports it. No figure is tested.

import Glibc
import Testing
import VsockSystem
import VsockTestSupport

@testable import vsock

@Suite struct PerfTests {
    /// What a run has said, as the fields of its line of JSON.
    private func run(_ arguments: [String]) throws -> [String: String] {
        let running = try RunningCommand(["perf", "--json"] + arguments, inputPath: "/dev/null")
        let output = try readAllText(running.output)
        let result = try running.finish()
        #expect(result.status == 0, "\(result.error)")
        var fields: [String: String] = [:]
        for field in output.drop(while: { $0 == "{" }).split(whereSeparator: { ",}\n".contains($0) }) {
            let parts = field.split(separator: ":", maxSplits: 1).map {
                String($0.drop { " \"".contains($0) }.reversed().drop { " \"".contains($0) }.reversed())
            }
            if parts.count == 2 { fields[parts[0]] = parts[1] }
        }
        return fields
    }

    @Test(
        "all bytes arrive, each way, on each number of connections",
        arguments: ["stream", "seqpacket"], ["guest-to-host", "host-to-guest", "both"])
    func throughput(type: String, direction: String) throws {
        for (way, connections) in [("loopback", 1), ("loopback", 3), ("unix", 1), ("unix-threads", 3)] {
            let selection = way == "loopback" ? ["--transport", way] : ["--baseline", way]
            let fields = try run(
                selection + [
                    "--type", type, "--direction", direction, "--connections", "\(connections)", "--bytes", "96K",
                    "--buf-size", "4K",
                ])
            // Between processes the other side's report is not seen.
            let expected = direction == "both" && way != "unix" ? 2 * 98_304 : 98_304
            #expect(fields["bytes"] == "\(expected)", "\(way): \(fields)")
            #expect(fields["connections"] == "\(connections)")
            #expect((fields["slowest_connection_share"] != nil) == (connections > 1))
            #expect((fields["receiver_cpu_seconds"] != nil) == (way == "unix" && direction != "both"))
        }
    }

    @Test("what is compared with memory counts what was copied", arguments: ["memory-copy", "thread-copy"])
    func memory(way: String) throws {
        let fields = try run(["--baseline", way, "--bytes", "64M", "--buf-size", "64K"])
        #expect(fields["bytes"] == "67108864", "\(fields)")
    }

    @Test("a round trip has percentiles", arguments: ["loopback", "unix", "unix-threads"])
    func roundTrip(way: String) throws {
        let selection = way == "loopback" ? ["--transport", way] : ["--baseline", way]
        let fields = try run(selection + ["--direction", "round-trip", "--bytes", "64000", "--buf-size", "64"])
        let times = try ["p50", "p99", "p99_9"].map { try #require(fields["round_trip_ns_\($0)"].flatMap { Int($0) }) }
        #expect(times == times.sorted() && times[0] > 0, "\(fields)")
    }

    @Test("a device of another process is loaded from both of its sides", arguments: ["stream", "seqpacket"])
    func device(type: String) throws {
        let directory = try TemporaryDirectory()
        let (socket, path) = (directory.file("vm.sock"), directory.file("vm.vsock"))
        let serve = try RunningCommand(
            ["serve", "--socket", socket, "--uds-path", path, "--log-level", "error"], inputPath: "/dev/null")
        try poll { access(path + "_seqpacket", F_OK) == 0 }
        for direction in PerfDirection.allCases {
            let fields = try run([
                "--transport", "driver:\(socket)", "--uds", path, "--device-pid", "\(serve.processID)", "--type", type,
                "--direction", direction.rawValue, "--connections", "2", "--idle", "3", "--bytes", "128K", "--buf-size",
                "1000",
            ])
            let count = try #require(fields["bytes"].flatMap { Int($0) })
            #expect(count >= 131_072, "\(fields)")
            #expect(fields["device_cpu_seconds"] != nil && fields["device_bytes_per_idle_connection"] != nil)
        }
    }

    @Test("connections that fill the guest's ring have their turns")
    func turns() throws {
        let directory = try TemporaryDirectory()
        let (socket, path) = (directory.file("vm.sock"), directory.file("vm.vsock"))
        let serve = try RunningCommand(
            ["serve", "--socket", socket, "--uds-path", path, "--log-level", "error"], inputPath: "/dev/null")
        try poll { access(path + "_seqpacket", F_OK) == 0 }
        // Sixteen turns each, of half of its credit.
        let fields = try run([
            "--transport", "driver:\(socket)", "--uds", path, "--connections", "64", "--bytes", "128M", "--buf-size",
            "4K",
        ])
        let share = try #require(fields["slowest_connection_share"].flatMap { Double($0) })
        #expect(share >= 0.85, "\(fields)")
        withExtendedLifetime(serve) {}
    }

    @Test("driver and device in one process", arguments: ["stream", "seqpacket"])
    func inProcess(type: String) throws {
        let directory = try TemporaryDirectory()
        let fields = try run([
            "--transport", "driver:\(directory.file("vm.sock"))", "--in-process", "--type", type, "--bytes", "1M",
        ])
        #expect(fields["bytes"] == "1048576")
    }

    @Test("one thread sends and receives", arguments: ["guest-to-host", "host-to-guest"], ["stream", "seqpacket"])
    func oneThread(direction: String, type: String) throws {
        let directory = try TemporaryDirectory()
        let fields = try run([
            "--transport", "driver:\(directory.file("vm.sock"))", "--in-process", "--one-thread", "--direction",
            direction,
            "--type", type, "--buf-size", "64K", "--bytes", "1M",
        ])
        #expect(fields["bytes"] == "1048576")
        #expect(fields["direction"] == direction)
    }

    @Test("a capture has every packet once", arguments: ["loopback", "device", "in-process", "one-thread"])
    func capture(way: String) throws {
        let directory = try TemporaryDirectory()
        let (socket, path, file) = (directory.file("vm.sock"), directory.file("vm.vsock"), directory.file("c.pcap"))
        var selection = ["--transport", way == "loopback" ? way : "driver:\(socket)"]
        var serve: RunningCommand?
        if way == "device" {
            serve = try RunningCommand(
                ["serve", "--socket", socket, "--uds-path", path, "--log-level", "error"], inputPath: "/dev/null")
            try poll { access(path + "_seqpacket", F_OK) == 0 }
            selection += ["--uds", path]
        } else if way != "loopback" {
            selection += way == "in-process" ? ["--in-process"] : ["--in-process", "--one-thread"]
        }
        _ = try run(selection + ["--bytes", "64K", "--buf-size", "4K", "--capture", file])
        let dump = try RunningCommand(["dump", file], inputPath: "/dev/null")
        let packets = try readAllText(dump.output).split(separator: "\n").map { $0.split(separator: " ") }
        #expect(try dump.finish().status == 0)
        #expect(packets.count { $0.contains("op=REQUEST") } == 1)
        let counts = packets.filter { $0.contains("op=RW") }.compactMap { packet in
            packet.first { $0.hasPrefix("len=") }.flatMap { Int($0.dropFirst(4)) }
        }
        #expect(counts.reduce(0, +) == 65_536)
        withExtendedLifetime(serve) {}
    }

    @Test("one side receives what the other sends, in two processes")
    func twoProcesses() throws {
        let directory = try TemporaryDirectory()
        let socket = directory.file("vm.sock")
        let receiver = try RunningCommand(
            ["perf", "--json", "--transport", "device:\(socket)", "--port", "77", "--rcvlowat", "2K"],
            inputPath: "/dev/null")
        try poll { access(socket, F_OK) == 0 }
        try send(["--transport", "driver:\(socket)", "--sender", "2", "--port", "77", "--bytes", "100K"])
        #expect(try readAllText(receiver.output).contains("\"bytes\": 102400"))
        #expect(try receiver.finish().status == 0)
    }

    @Test(
        "one side is a program of the host behind a device's Unix sockets, either way",
        arguments: ["stream", "seqpacket"])
    func hybrid(type: String) throws {
        let directory = try TemporaryDirectory()
        let (socket, path) = (directory.file("vm.sock"), directory.file("vm.vsock"))
        let serve = try RunningCommand(
            ["serve", "--socket", socket, "--uds-path", path, "--log-level", "error"], inputPath: "/dev/null")
        try poll { access(path + "_seqpacket", F_OK) == 0 }
        let guest = ["--transport", "driver:\(socket)", "--type", type]
        let host = ["--transport", "uds:\(path)", "--type", type, "--device-pid", "\(serve.processID)"]
        for (receiving, sending, cid) in [(host, guest, "2"), (guest, host, "3")] {
            let receiver = try RunningCommand(
                ["perf", "--json", "--rcvlowat", "2K", "--buf-size", "8K"] + receiving, inputPath: "/dev/null")
            try send(sending + ["--sender", cid, "--bytes", "64K", "--buf-size", "4K"])
            let said = try readAllText(receiver.output)
            #expect(said.contains("\"bytes\": 65536,"))
            #expect(said.contains("device_cpu_seconds") == (receiving == host))
            #expect(try receiver.finish().status == 0)
        }
    }

    /// Sends to a receiver that has been started: until it listens, a sender is refused.
    private func send(_ arguments: [String]) throws {
        try poll {
            try RunningCommand(["perf"] + arguments, inputPath: "/dev/null").finish().status == 0
        }
    }

    @Test(
        "wrong usage is one line and status 64",
        arguments: [
            "--bytes 1 --seconds 1", "--bytes 0", "--bytes x", "--bytes 2000G", "--seconds 0", "--buf-size 1T",
            "--connections 0", "--idle -1", "--type raw", "--direction up", "--direction guest-to-host", "--zerocopy",
            "--zerocopy --transport loopback", "--zerocopy --sender 2 --transport driver:/s",
            "--zerocopy --sender 2 --direction round-trip", "--zerocopy --sender 2 --baseline unix",
            "--transport x", "--uds /tmp/x", "--transport loopback --uds /tmp/x", "--in-process", "--device-pid 1",
            "--sender 2 --transport driver:/s --uds /u", "--uds /u --in-process --transport driver:/s", "--sender x",
            "--one-thread", "--transport loopback --one-thread", "--transport driver:/s --uds /u --one-thread",
            "--transport driver:/s --in-process --one-thread --connections 2",
            "--transport driver:/s --in-process --one-thread --direction round-trip", "--vsk-size 4G", "--baseline tcp",
            "--rcvlowat 257K",
            "--capture /tmp/x", "--capture /tmp/x --transport uds:/tmp/x", "--capture /tmp/x --baseline unix",
        ])
    func usage(line: String) throws {
        let running = try RunningCommand(["perf"] + line.split(separator: " ").map(String.init), inputPath: "/dev/null")
        let result = try running.finish()
        #expect(result.status == 64, "\(result.error)")
        #expect(result.errorLine?.hasPrefix("vsock: ") == true, "\(result.error)")
    }

    @Test("a device that is not there is one line and status 1")
    func noDevice() throws {
        let running = try RunningCommand(
            ["perf", "--transport", "driver:/nonexistent/s", "--uds", "/nonexistent/u"], inputPath: "/dev/null")
        let result = try running.finish()
        #expect(result.status == 1)
        #expect(result.errorLine?.contains("/nonexistent/u") == true, "\(result.error)")
    }
}

@Suite struct PerfTextTests {
    @Test func sizesHaveUnits() {
        for (text, count) in [("1", 1), ("64K", 65_536), ("2m", 2 << 20), ("1G", 1 << 30), ("1024G", 1 << 40)] {
            #expect(PerfByteCount(argument: text)?.count == count)
        }
        for text in ["", "0", "0K", "-1", "K", "1KK", "1T", "1025G", "99999999999999999999", "1.5K", "\u{1F600}"] {
            #expect(PerfByteCount(argument: text) == nil, "\(text)")
        }
    }

    @Test func decimalsAreRounded() {
        #expect(PerfReport.decimal(0, 3) == "0.000")
        #expect(PerfReport.decimal(1.0005, 3) == "1.001" || PerfReport.decimal(1.0005, 3) == "1.000")
        #expect(PerfReport.decimal(12.3456, 2) == "12.35")
        #expect(PerfReport.decimal(0.999, 2) == "1.00")
        #expect(PerfReport.decimal(7.6, 0) == "8")
        #expect(PerfReport.decimal(.infinity, 1) == "?")
        #expect(PerfReport.decimal(.nan, 1) == "?")
    }

    @Test func stringsOfJSONAreEscaped() {
        #expect(PerfReport.quoted("a\"b\\c\n\u{1}é") == #""a\"b\\c\u000a\u0001é""#)
    }

    @Test func aQuotaEndsByBytesOrByTime() {
        var bytes = PerfQuota(.bytes(100), start: 5, share: 1, of: 3)
        bytes.take(33)
        #expect(bytes.allowsMessage(at: .max - 1))
        bytes.take(1)
        #expect(!bytes.allowsMessage(at: 0))
        #expect(bytes.remainingNanoseconds(at: 0) == nil)
        let time = PerfQuota(.nanoseconds(10), start: 5)
        #expect(time.allowsMessage(at: 14) && !time.allowsMessage(at: 15))
        #expect(time.remainingNanoseconds(at: 12) == 3 && time.remainingNanoseconds(at: 99) == 0)
    }

    @Test("a quota of time ends soon after it, of small messages too; one of bytes at once")
    func quotaByTheClock() {
        for byteCount in [64, 4096] {
            var over = PerfQuota(.nanoseconds(1), start: MonotonicClock.now() - 2)
            let isOver = !over.allowsMessage(of: byteCount)
            #expect(isOver)
            var time = PerfQuota(.nanoseconds(20_000_000), start: MonotonicClock.now())
            let end = MonotonicClock.now() + 20_000_000
            var count = 0
            while time.allowsMessage(of: byteCount), MonotonicClock.now() < end { count += 1 }
            #expect(count > 0)
            while MonotonicClock.now() < end {}
            var lateCount = 0
            while time.allowsMessage(of: byteCount), lateCount < 1000 { lateCount += 1 }
            #expect(lateCount < (byteCount < 4096 ? 32 : 1))
            var bytes = PerfQuota(.bytes(100), start: 0)
            let begins = bytes.allowsMessage(of: byteCount)
            bytes.take(100)
            let goesOn = bytes.allowsMessage(of: byteCount)
            #expect(begins && !goesOn)
        }
    }
}
