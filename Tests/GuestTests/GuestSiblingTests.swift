// SPDX-License-Identifier: Apache-2.0
//
// Real guests on one `vsock serve` that talk to each other. Goal: a guest reaches those that it shares a group with and
// is refused by the others at once, and one that has stopped is no concern of the rest.

import Foundation
import Testing
import VsockSystem
import VsockTestPrograms

@Suite("Sibling guests", .serialized)
@MainActor
struct GuestSiblingTests {
    nonisolated private static let hasGuests = Load.kernels.contains("uml") && Load.kernels.contains("6.12")

    /// What crosses while a third guest does nothing, in bytes.
    private static let byteCount = 1 << 30

    @Test(
        "four guests in two overlapping groups: those that share one reach each other, others are refused in 100 ms",
        .enabled(if: hasGuests))
    func groups() throws {
        // 5 is in both.
        let groups: [(cid: Int, kernel: String, groups: Set<String>)] = [
            (3, "uml", ["left"]), (4, "6.12", ["left"]), (5, "uml", ["left", "right"]), (6, "uml", ["right"]),
        ]
        let siblings = try Siblings(groups.map { ($0.kernel, $0.groups.sorted().joined(separator: "+")) })
        for (type, port) in [("stream", 2000), ("seqpacket", 2001)] {
            for server in groups {
                let others = groups.filter { $0.cid != server.cid }
                let reaching = others.filter { !$0.groups.isDisjoint(with: server.groups) }
                // It ends when as many have come and gone.
                let listening = try siblings[server.cid].start(
                    "/usr/bin/python3 scenarios.py echo --type \(type) --connections \(reaching.count) "
                        + "vsock-listen:\(port)")
                try siblings[server.cid].wait(for: "listening", of: listening, seconds: 120)
                for client in others {
                    let isReached = reaching.contains { $0.cid == client.cid }
                    let outcome =
                        isReached
                        ? "--expect OK --within 120000" : "--expect ECONNRESET --within 100 --attempts 5"
                    let result = try siblings[client.cid].run(
                        "/usr/bin/python3 scenarios.py connect-error --type \(type) \(outcome) "
                            + "vsock:\(server.cid):\(port)", seconds: 120)
                    #expect(result.status == 0, "\(type) from \(client.cid) to \(server.cid): \(result.output)")
                }
                let served = try siblings[server.cid].finish(listening, seconds: 120)
                #expect(served.status == 0, "\(type) to \(server.cid): \(served.output)")
            }
        }
        try siblings.stop()
    }

    @Test(
        "1 GiB between two guests arrives with equal SHA-256 while a third has stopped with its buffers full",
        .enabled(if: hasGuests))
    func stoppedThird() throws {
        let siblings = try Siblings([("uml", "all"), ("6.12", "all"), ("uml", "all")])
        let (sender, stopped, receiver) = (siblings[3], siblings[4], siblings[5])
        // More than all buffers on the way to the one that stops.
        let content = "--type stream --bytes 16000000 --message 65536 --timeout 500"
        let echoing = try stopped.start("/usr/bin/python3 scenarios.py echo-after-end \(content) vsock-listen:2000")
        try stopped.wait(for: "listening", of: echoing, seconds: 120)
        let blocked = try sender.start("/usr/bin/python3 scenarios.py half-close \(content) vsock:4:2000")
        try sender.wait(for: "connected", of: blocked, seconds: 120)
        try stopped.signal(SIGSTOP)

        let options = "--bytes \(Self.byteCount) --timeout 120"
        let receiving = try receiver.start(
            "/usr/bin/python3 stream.py --receive-seed 7 \(options) vsock-listen:2001")
        try receiver.wait(for: "listening", of: receiving, seconds: 120)
        let sent = try sender.run("/usr/bin/python3 stream.py --send-seed 7 \(options) vsock:5:2001", seconds: 400)
        let received = try receiver.finish(receiving, seconds: 120)
        #expect(sent.status == 0 && received.status == 0, "\(sent.output) \(received.output)")
        let digests = [sent, received].map { $0.output.split(separator: "\"").last { $0.count == 64 } }
        #expect(digests[0] != nil && digests[0] == digests[1], "\(sent.output) \(received.output)")

        // Nothing was lost on the way to the other, either.
        try stopped.signal(SIGCONT)
        let echoed = try sender.finish(blocked, seconds: 400)
        #expect(echoed.status == 0, "\(echoed.output)")
        #expect(try stopped.finish(echoing, seconds: 120).status == 0)
        try siblings.stop()
    }

    /// Guests of one `vsock serve`, with context IDs from 3.
    @MainActor
    private final class Siblings {
        private let directory: TemporaryDirectory
        private let daemon: Program
        private var guests: [GuestCommands] = []

        /// Starts the daemon and boots a guest for each pair of kernel and groups.
        init(_ kinds: [(kernel: String, groups: String)]) throws {
            directory = try TemporaryDirectory()
            let sockets = kinds.indices.map { [directory] in "\(directory.path)/vm\($0).sock" }
            daemon = try Program(
                "vsock serve",
                [Place.command, "serve", "--log-level", "warning"]
                    + kinds.indices.flatMap {
                        [
                            "--vm",
                            "guest-cid=\(3 + $0),socket=\(sockets[$0]),uds-path=\(sockets[$0]).uds,"
                                + "groups=\(kinds[$0].groups)",
                        ]
                    })
            for _ in kinds { _ = try daemon.waitForLine(containing: "QEMU", seconds: 120) }
            for (kind, socket) in zip(kinds, sockets) {
                guests.append(try GuestCommands(kernel: kind.kernel, socket: socket))
            }
        }

        subscript(cid: Int) -> GuestCommands { guests[cid - 3] }

        func stop() throws {
            for guest in guests { try guest.stop() }
            try daemon.kill(SIGTERM)
            #expect(try daemon.end(seconds: 120) == 0)
        }
    }
}
