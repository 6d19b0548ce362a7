// SPDX-License-Identifier: Apache-2.0
//
// Unmodified Linux kernels as guests of `vsock serve`, ordinary programs on both sides. Goal: whatever crosses
// arrives, in each direction and whoever connects; ends and refusals look as with the kernel's own device.
//
// A kernel that cannot be booted is a failure, not a skip: `make setup` installs them.

import Foundation
import Testing
import VsockSystem
import VsockTestPrograms

/// How much crosses.
enum Load {
    /// User Mode Linux, QEMU with Debian 12's kernel, QEMU with the backported one. VSOCK_KERNELS, a list with commas,
    /// picks others.
    static let kernels =
        ProcessInfo.processInfo.environment["VSOCK_KERNELS"].map { $0.split(separator: ",").map(String.init) }
        ?? ["uml", "6.1", "6.12"]

    static let recordCount = 10_000

    static func streamByteCount(_ kernel: String) -> Int { kernel == "uml" ? 1 << 30 : 256 << 20 }

    /// A thousand connections of a type, and how many records each of them echoes.
    struct Connections {
        let type: String
        let isGuestConnecting: Bool
        let recordCount: Int
    }

    /// An emulated guest spends its time in Python, so it gets half of the kinds and few records; the other one gets the
    /// first kind once more, to see whether memory grows.
    static func connections(_ kernel: String) -> [Connections] {
        let isEmulated = kernel != "uml"
        let both = [("seqpacket", true), ("stream", false)].map {
            Connections(type: $0.0, isGuestConnecting: $0.1, recordCount: isEmulated ? 5 : 100)
        }
        let others = [("stream", true), ("seqpacket", false), ("seqpacket", true)].map {
            Connections(type: $0.0, isGuestConnecting: $0.1, recordCount: 5)
        }
        return isEmulated ? both : both + others
    }

    /// Connects under way at a time; 0 for all. An emulated guest may take longer than the two seconds after which a
    /// connect times out to answer a thousand.
    static func burst(_ kernel: String) -> Int { kernel == "uml" ? 0 : 50 }
}

extension BootedGuests {
    @Suite("Linux guests")
    @MainActor
    struct GuestTrafficTests {
        @Test("records keep length and content, both ways at once", arguments: Load.kernels)
        func records(kernel: String) throws {
            let shell = try BootedGuests.take(kernel)
            let options = "--count \(Load.recordCount) --size-max 65536 --large 262144 --timeout 120"
            for isGuestConnecting in [true, false] {
                let exchange = try Exchange(
                    shell, program: "records.py", port: 1000, isGuestConnecting: isGuestConnecting,
                    guestOptions: "--send-seed 2 --receive-seed 1 --oversize 300000 \(options)",
                    hostOptions: "--send-seed 1 --receive-seed 2 \(options)", seconds: 300)
                #expect(exchange.guestStatus == 0 && exchange.hostStatus == 0, "\(exchange)")
                let oversize = exchange.guest["oversize"] as? String
                #expect(oversize == (kernel == "6.12" ? "EMSGSIZE" : "ENOMEM"), "\(exchange)")
                try exchange.expectEqualDigests()
            }
            try BootedGuests.giveBack(shell)
        }

        @Test("streams arrive unchanged while data flows the other way", arguments: Load.kernels)
        func streams(kernel: String) throws {
            let shell = try BootedGuests.take(kernel)
            for isGuestConnecting in [true, false] {
                let options = "--bytes \(Load.streamByteCount(kernel)) --chunk 65536 --hash sha256 --timeout 120"
                let exchange = try Exchange(
                    shell, program: "stream.py", port: 1001, isGuestConnecting: isGuestConnecting,
                    guestOptions: "--send-seed 2 --receive-seed 1 \(options)",
                    hostOptions: "--send-seed 1 --receive-seed 2 \(options)", seconds: 400)
                #expect(exchange.guestStatus == 0 && exchange.hostStatus == 0, "\(exchange)")
                try exchange.expectEqualDigests()
            }
            try BootedGuests.giveBack(shell)
        }

        @Test("half-closes and closes cross in both directions", arguments: Load.kernels)
        func ends(kernel: String) throws {
            let shell = try BootedGuests.take(kernel)
            for type in ["stream", "seqpacket"] {
                for isGuestConnecting in [true, false] {
                    for (guest, host) in [
                        ("half-close", "echo-after-end"), ("echo-after-end", "half-close"),
                        ("close-unread", "send-and-wait --expect EOF,ECONNRESET,EPIPE"),
                        ("send-and-wait --expect EOF,ECONNRESET,EPIPE", "close-unread"),
                    ] {
                        let exchange = try Exchange(
                            shell, program: "scenarios.py", port: 1002, isGuestConnecting: isGuestConnecting,
                            guestOptions: "--type \(type)", hostOptions: "--type \(type)",
                            guestCommand: guest, hostCommand: host, seconds: 120)
                        #expect(
                            exchange.guestStatus == 0 && exchange.hostStatus == 0,
                            "\(type), guest: \(guest), host: \(host), guest connects: \(isGuestConnecting): \(exchange)"
                        )
                    }
                }
            }
            try BootedGuests.giveBack(shell)
        }

        @Test("a host program that is killed is an end or a reset in the guest", arguments: Load.kernels)
        func killedHostProgram(kernel: String) throws {
            let shell = try BootedGuests.take(kernel)
            for type in ["stream", "seqpacket"] {
                let host = try Program(
                    "endless.py", ["/usr/bin/python3", "\(Place.programs)/endless.py", "\(shell.path)_1003", type])
                _ = try host.waitForLine(containing: "listening", seconds: 120)
                let running = try shell.start(
                    "/usr/bin/python3 scenarios.py wait-end --type \(type) --expect EOF,ECONNRESET vsock:2:1003")
                _ = try host.waitForLine(containing: "sending", seconds: 120)
                try host.kill(SIGKILL)
                let result = try shell.finish(running, seconds: 120)
                #expect(result.status == 0, "\(type): \(result.output)")
            }
            try BootedGuests.giveBack(shell)
        }

        @Test("what nobody takes is refused within 100 ms", arguments: Load.kernels)
        func refusals(kernel: String) throws {
            let shell = try BootedGuests.take(kernel)
            let stream = try Program(
                "listener", ["/usr/bin/python3", "\(Place.programs)/endless.py", "\(shell.path)_1004", "stream"])
            _ = try stream.waitForLine(containing: "listening", seconds: 120)
            for (what, type, address) in [
                ("no listener", "stream", "vsock:2:4242"), ("no listener", "seqpacket", "vsock:2:4242"),
                ("wrong type", "seqpacket", "vsock:2:1004"), ("unknown CID", "stream", "vsock:77:1004"),
                ("unknown CID", "seqpacket", "vsock:77:1004"),
            ] {
                let result = try shell.run(
                    "/usr/bin/python3 scenarios.py connect-error --type \(type) --expect ECONNRESET --within 100 --attempts 5 \(address)",
                    seconds: 120)
                #expect(result.status == 0, "\(what), \(type): \(result.output)")
            }
            // The other way: no program in the guest listens, so the host's socket is closed.
            let host = try Program(
                "connect-error",
                [
                    "/usr/bin/python3", "\(Place.programs)/scenarios.py", "connect-error", "--type", "seqpacket",
                    "--expect", "EOF", "--within", "1000", "uds:\(shell.path):4242",
                ])
            #expect(try host.end(seconds: 120) == 0, "\(host.transcript)")
            try BootedGuests.giveBack(shell)
        }

        @Test("1,000 connections at once lose nothing and leave nothing behind", arguments: Load.kernels)
        func manyConnections(kernel: String) throws {
            let shell = try BootedGuests.take(kernel)
            var ownByteCounts: [Int] = []
            for kind in Load.connections(kernel) {
                let options =
                    "--type \(kind.type) --connections 1000 --burst \(Load.burst(kernel)) "
                    + "--rounds \(kind.recordCount) --message 64 --timeout 60"
                let (guest, host) = kind.isGuestConnecting ? ("many", "echo") : ("echo", "many")
                let exchange = try Exchange(
                    shell, program: "scenarios.py", port: 1005, isGuestConnecting: kind.isGuestConnecting,
                    guestOptions: options, hostOptions: options, guestCommand: guest, hostCommand: host, seconds: 200)
                #expect(
                    exchange.guestStatus == 0 && exchange.hostStatus == 0,
                    "\(kind): \(exchange)")
                ownByteCounts.append(try anonymousByteCount(of: shell.device))
            }
            if ownByteCounts.count > 4 {
                // What four thousand needed is kept for the fifth, which needs no more: a thousand leaked sockets would
                // be several hundred KiB.
                let growth = ownByteCounts[4] - ownByteCounts[3]
                #expect(growth < 128 << 10, "memory of vsock serve after each thousand: \(ownByteCounts)")
            }
            try BootedGuests.giveBack(shell)
        }

        /// Memory of the process's own: not the guest's, which it maps, too, and of which it touches ever more. Counted
        /// page by page; the totals in `status` and `statm` lag behind by some hundred KiB.
        private func anonymousByteCount(of program: Program) throws -> Int {
            let text = try String(contentsOfFile: "/proc/\(program.processID)/smaps_rollup", encoding: .utf8)
            let line = try #require(text.split(separator: "\n").first { $0.hasPrefix("Anonymous:") }, "\(text)")
            return try #require(line.split(separator: " ").dropFirst().first.flatMap { Int($0) }, "\(line)") << 10
        }
    }
}
