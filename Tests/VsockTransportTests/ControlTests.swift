// SPDX-License-Identifier: Apache-2.0
//
// What a daemon tells of its sockets on its control socket.

import Testing
import VsockCore
import VsockSystem
import VsockTestSupport
import VsockWire

@testable import VsockTransport

@Suite("Control socket")
struct ControlTests {
    private let daemon: SiblingDaemon
    private let server: ControlServer
    private let path: String

    init() throws {
        daemon = try SiblingDaemon([["g"], ["g"], ["h"]])
        path = daemon.directory.file("control")
        server = try ControlServer(path: path, daemon: daemon.daemon)
    }

    /// Says a command and returns the answer.
    private func ask(_ command: String) throws -> [ControlLine] {
        let client = try HostProgram(connectingTo: path, type: .stream)
        try client.send(command)
        let text = String(decoding: try client.receiveToEnd(), as: UTF8.self)
        return text.split(separator: "\n").compactMap { ControlLine($0) }
    }

    private func vm(_ cid: UInt32, isReady: Bool) -> ControlLine {
        .vm(cid: cid, isReady: isReady, path: daemon.directory.file("v\(cid)"))
    }

    /// The sockets of one VM.
    private func sockets(_ cid: UInt32) throws -> [SocketEntry] {
        try ask("sockets \(cid)\n").compactMap { line in
            if case .socket(let entry) = line { entry } else { nil }
        }
    }

    @Test("no sockets: the VMs, with a guest and without, and nothing else; the socket is its owner's alone")
    func noSockets() throws {
        defer { server.stop() }
        #expect(daemon.directory.mode("control") == 0o600)
        #expect(try ask("sockets\n") == [3, 4, 5].map { vm($0, isReady: false) } + [.end])
        let guest = try daemon.guest(4)
        try eventually { try ask("sockets 4\n") == [vm(4, isReady: true), .end] }
        withExtendedLifetime(guest) {}
    }

    @Test("connected: one line for each VM that has an end, with addresses, queues and credit both ways")
    func connected() throws {
        defer { server.stop() }
        let client = try daemon.guest(3)
        let other = try daemon.guest(4)
        try other.sockets.listen(.stream, port: 7)
        let near = try client.connect(.stream, to: other)
        let far = try other.sockets.accept(port: 7)
        let listener = try UnixListener(UnixAddress(daemon.directory.file("v3_9")), type: .seqpacket)
        let toHost = try client.sockets.connect(.seqpacket, port: 9)
        let program = try listener.take()
        try near.send(pattern(1000))
        try program.send(pattern(500))

        // The other guest has the bytes in its buffers, and has not said that it has taken them.
        try eventually { try sockets(4).first?.sendQueueByteCount == 1000 }
        let farEntry = try #require(try sockets(4).first)
        #expect(farEntry.type == .stream && farEntry.state == .established)
        #expect(farEntry.local.cid == 3 && farEntry.peer == VsockAddress(cid: 4, port: 7))
        #expect(farEntry.sendCredit == 261_144 && farEntry.receiveCredit == 262_144)
        try eventually { try sockets(3).contains { $0.sendQueueByteCount == 500 } }
        let entries = try sockets(3)
        #expect(entries.count == 2)
        let sibling = try #require(entries.first { $0.local == VsockAddress(cid: 4, port: 7) })
        #expect(sibling.peer == VsockAddress(cid: 3, port: farEntry.local.port))
        let host = try #require(entries.first { $0.local == VsockAddress(cid: .host, port: 9) })
        #expect(host.type == .seqpacket && host.sendCredit == 261_644 && host.receiveQueueByteCount == 0)
        #expect(try sockets(5).isEmpty)

        // All is over.
        near.close()
        far.close()
        toHost.close()
        try eventually { try sockets(3).isEmpty && sockets(4).isEmpty }
    }

    @Test("what is no command is told so, and a client that says nothing holds up none for good")
    func commands() throws {
        #expect(try ask("sockets 9\n") == [.error("there is no VM with CID 9")])
        for command in ["\n", "help\n", "sockets 3 4\n", "socketss\n"] {
            #expect(try ask(command) == [.error("the command is sockets or limits, and perhaps a CID")], "\(command)")
        }
        let endless = try HostProgram(connectingTo: path, type: .stream)
        try endless.send(String(repeating: "x", count: 65))
        #expect(try endless.isClosedWithoutText())
        server.stop()
        #expect(!daemon.directory.exists("control"))

        let impatient = try ControlServer(
            path: path, clientTimeoutNanoseconds: 200_000_000, daemon: daemon.daemon)
        let silent = try HostProgram(connectingTo: path, type: .stream)
        let next = try HostProgram(connectingTo: path, type: .stream)
        try next.send("sockets 3\n")
        #expect(try silent.receiveToEnd() == [])
        #expect(try next.receiveLine()?.hasPrefix("vm 3 waiting ") == true)
        impatient.stop()
    }

    @Test("lines are read as they are written, and anything else is skipped")
    func lines() {
        var entry = SocketEntry(
            type: .seqpacket, state: .closing, local: VsockAddress(cid: .host, port: 1),
            peer: VsockAddress(cid: 3, port: 4_294_967_294))
        entry.receiveQueueByteCount = 1
        entry.sendQueueByteCount = 2
        entry.receiveCredit = 3
        entry.sendCredit = 4
        let lines: [ControlLine] = [
            .vm(cid: 3, isReady: true, path: "/a b/c"), .vm(cid: 4, isReady: false, path: "x"), .socket(entry),
            .error("there is none"), .end,
        ]
        for line in lines { #expect(ControlLine(line.text.dropLast()) == line) }
        #expect(ControlLine.vm(cid: 3, isReady: true, path: "a\nend\n").text == "vm 3 ready a?end?\n")
        for text in ["", "end 1", "vm", "vm 3 ready", "vm x ready /a", "socket stream", "more to come"] {
            #expect(ControlLine(text) == nil, "\(text)")
        }
        var random = PRNG(seed: 1)
        let words = [
            "vm", "3", "ready", "socket", "stream", "ESTAB", "2:1", "3:", ":", "-1", "18446744073709551616", " ",
        ]
        for _ in 0..<10_000 {
            _ = ControlLine((0..<random.below(12)).map { _ in random.pick(words) }.joined(separator: " "))
        }
    }
}

@Suite("Control lines")
struct ControlLineTests {
    @Test(
        "a line is one line, whatever a path or a client's words hold", arguments: ["a\nb", "a\r\nb", "\n\n", "\r\n"])
    func oneLine(text: String) {
        for line in [ControlLine.vm(cid: 3, isReady: true, path: text), .error(text)] {
            let bytes = Array(line.text.utf8)
            #expect(bytes.count { $0 == UInt8(ascii: "\n") } == 1 && bytes.last == UInt8(ascii: "\n"))
        }
    }
}
