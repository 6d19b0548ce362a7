// SPDX-License-Identifier: Apache-2.0
//
// Host programs that ask for a port of the guest: the union of what the clients of existing devices rely on.

import Testing
import VsockCore
import VsockSystem
import VsockWire

@testable import VsockTransport

@Suite("Hybrid protocol: CONNECT and OK")
struct HybridProtocolTests {
    /// What a client sends, piece by piece, and what arrives in the guest behind the command.
    struct Dialogue: Sendable, CustomTestStringConvertible {
        let pieces: [String]
        var data = ""
        var testDescription: String { pieces.joined(separator: "|").debugDescription }
    }

    @Test(
        "a client reaches the guest however it writes its command",
        arguments: [
            Dialogue(pieces: ["CONNECT 52\n"]),
            Dialogue(pieces: ["connect 52\n"]),
            Dialogue(pieces: ["Connect\t 52 \r\n"]),
            Dialogue(pieces: ["CONNECT +0052\n"]),
            Dialogue(pieces: ["CON", "NECT", " 5", "2", "\n"]),
            Dialogue(pieces: "CONNECT 52\n".map { String($0) }),
            Dialogue(pieces: [String(repeating: " ", count: 53) + "CONNECT 52\n"]),
            Dialogue(pieces: ["CONNECT 52\nhello"], data: "hello"),
            Dialogue(pieces: ["CONNECT 52\n\nCONNECT 53\n"], data: "\nCONNECT 53\n"),
            Dialogue(pieces: ["CONNE", "CT 52\nhel", "lo"], data: "hello"),
        ])
    func understood(dialogue: Dialogue) throws {
        let device = try TestDevice()
        let guest = try device.guest()
        try guest.listen(.stream, port: 52)
        let client = try device.client()
        for (index, piece) in dialogue.pieces.enumerated() {
            try client.send(piece)
            // The device has taken this piece before the next one comes, unless the guest has been asked already.
            guard index + 1 < dialogue.pieces.count, !dialogue.pieces[...index].joined().contains("\n") else {
                continue
            }
            try eventually { try device.inspect { $0.host.listener?.partialByteCount } == client.bytesSent }
        }
        let socket = try guest.accept(port: 52)
        let answer = try #require(try client.receiveLine())
        let hostPort = try #require(UInt32(answer.dropFirst(3)))
        #expect(answer.hasPrefix("OK "))
        #expect(hostPort == 1 << 30)
        let pair = ConnectedPair(host: client, guest: guest, socket: socket)
        #expect(try pair.receive(exactly: dialogue.data.utf8.count) == Array(dialogue.data.utf8))
        try pair.send(Array("bye".utf8))
        #expect(try client.receive(exactly: 3) == Array("bye".utf8))
    }

    @Test("data that is sent together with the command arrives in the guest completely", arguments: [1, 4096, 150_000])
    func pipelined(byteCount: Int) throws {
        let device = try TestDevice()
        let guest = try device.guest()
        try guest.listen(.stream, port: 52)
        let client = try device.client()
        let data = pattern(byteCount)
        let sender = try Background {
            try client.send(Array("CONNECT 52\n".utf8) + data)
            try client.shutdown(.send)
        }
        let socket = try guest.accept(port: 52)
        let pair = ConnectedPair(host: client, guest: guest, socket: socket)
        #expect(try pair.receiveToEnd() == data)
        try sender.value()
        #expect(try client.receiveLine()?.hasPrefix("OK ") == true)
    }

    @Test(
        "a client that says anything else is closed without text",
        arguments: [
            "CONNECT\n", "CONNECT \n", "CONNECT x\n", "CONNECT -1\n", "CONNECT 4294967295\n", "CONNECT 4294967296\n",
            "CONNECT 99999999999999999999\n", "CONNECT 52 now\n", "CONNECT 5 2\n", "CONNECT52\n", "\n",
            "GET / HTTP/1.1\n",
            "OK 52\n", "CONNECT 0\n", "CONNECT 51\n", String(repeating: "C", count: 64),
            String(repeating: " ", count: 64), "CONNECT " + String(repeating: "0", count: 56),
            String(repeating: "\u{1}", count: 200), "CONNECT \u{fffd}\n",
        ])
    func refused(command: String) throws {
        let device = try TestDevice()
        let guest = try device.guest()
        try guest.listen(.stream, port: 52)
        let client = try device.client()
        try client.send(command)
        let closed = try Background { try client.isClosedWithoutText() }
        #expect(try closed.value())
        #expect(try device.connectionCount() == 0)
        // The device goes on.
        _ = try ConnectedPair(device, guest, .stream, from: .host, port: 52)
    }

    @Test("the command may be 64 bytes long with its newline, and no longer")
    func longest() throws {
        let device = try TestDevice()
        let guest = try device.guest()
        try guest.listen(.stream, port: 52)
        let client = try device.client()
        try client.send("CONNECT " + String(repeating: "0", count: 53) + "52\n")
        _ = try guest.accept(port: 52)
        #expect(try client.receiveLine()?.hasPrefix("OK ") == true)
        let tooLong = try device.client()
        try tooLong.send("CONNECT " + String(repeating: "0", count: 54) + "52\n")
        #expect(try tooLong.isClosedWithoutText())
        #expect(device.log.contains("client refused", "tooLong"))
    }

    @Test("host ports are given one after another from 2^30")
    func hostPorts() throws {
        let device = try TestDevice()
        let guest = try device.guest()
        try guest.listen(.stream, port: 52)
        var lines: [String?] = []
        var clients: [HostProgram] = []
        for _ in 0..<3 {
            let client = try device.client()
            try client.send("CONNECT 52\n")
            _ = try guest.accept(port: 52)
            lines.append(try client.receiveLine())
            clients.append(client)
        }
        #expect(lines == ["OK 1073741824", "OK 1073741825", "OK 1073741826"])
    }

    @Test("without a guest a client is closed at once")
    func noGuest() throws {
        let device = try TestDevice()
        for type in [UnixSocketType.stream, .seqpacket] {
            let client = try device.client(type)
            try client.send("CONNECT 52\n")
            #expect(try client.isClosedWithoutText())
        }
    }

    @Test("a guest without a listener, or with one of the other type, refuses: closed without text")
    func guestRefuses() throws {
        let device = try TestDevice()
        let guest = try device.guest()
        try guest.listen(.seqpacket, port: 52)
        for (type, port) in [(UnixSocketType.stream, 51), (.stream, 52), (.seqpacket, 51)] {
            let client = try device.client(type)
            try client.send("CONNECT \(port)\n")
            let closed = try Background { try client.isClosedWithoutText() }
            #expect(try closed.value())
        }
    }

    @Test("a guest that does not answer: closed when the time to connect has passed, and reset towards the guest")
    func guestSilent() throws {
        let device = try TestDevice { $0.connectTimeoutNanoseconds = 50_000_000 }
        let guest = PacketGuest(try device.driver())
        let client = try device.client()
        let start = MonotonicClock.now()
        try client.send("CONNECT 52\n")
        #expect(try guest.next().header.operation == .request)
        #expect(try client.isClosedWithoutText())
        #expect(MonotonicClock.now() - start >= 50_000_000)
        #expect(try guest.next().header.operation == .reset)
        #expect(try device.connectionCount() == 0)
        #expect(device.log.contains("guest did not answer"))
    }

    @Test("records: both texts are records, with or without a newline in the client's")
    func records() throws {
        let device = try TestDevice()
        let guest = try device.guest()
        try guest.listen(.seqpacket, port: 52)
        for (index, command) in ["CONNECT 52\n", "connect +52", "CONNECT\t52  "].enumerated() {
            let client = try device.client(.seqpacket)
            try client.send(command)
            // The first record of the connection, sent before the answer.
            try client.send("first")
            let socket = try guest.accept(port: 52)
            #expect(try client.receive() == Array("OK \((1 << 30) + index)\n".utf8))
            let pair = ConnectedPair(host: client, guest: guest, socket: socket)
            #expect(try pair.receive() == Array("first".utf8))
        }
    }

    @Test(
        "records: a first record that is no command, or empty, closes",
        arguments: ["CONNECT", "hello", "CONNECT 52\nCONNECT 52\n", String(repeating: " ", count: 65), "CONNECT 52\n5"])
    func badRecords(command: String) throws {
        let device = try TestDevice()
        let guest = try device.guest()
        try guest.listen(.seqpacket, port: 52)
        let client = try device.client(.seqpacket)
        try client.send(command)
        #expect(try client.isClosedWithoutText())
        let empty = try device.client(.seqpacket)
        try empty.send("")
        #expect(try empty.isClosedWithoutText())
    }

    // MARK: Clients that do not go through with it

    @Test("silent clients, and those that stop in the middle, are closed when their time has passed")
    func silent() throws {
        let device = try TestDevice { $0.clientTimeoutNanoseconds = 50_000_000 }
        let start = MonotonicClock.now()
        let silent = try device.client()
        let halfway = try device.client()
        try halfway.send("CONNECT 5")
        let record = try device.client(.seqpacket)
        #expect(try silent.isClosedWithoutText())
        #expect(try halfway.isClosedWithoutText())
        #expect(try record.isClosedWithoutText())
        #expect(MonotonicClock.now() - start >= 50_000_000)
        #expect(try device.counters().clientsFailed == 3)
    }

    @Test("more silent clients than the limit: others wait until one of them leaves, or has been silent for long")
    func manySilent() throws {
        let device = try TestDevice()
        let guest = try device.guest()
        try guest.listen(.stream, port: 52)
        let limit = DeviceLimits()[.silentClients]
        var clients: [HostProgram] = []
        for _ in 0..<limit { clients.append(try device.client()) }
        try eventually { try device.inspect { $0.host.listener?.clientCount } == limit }
        let next = try device.client()
        try next.send("CONNECT 52\n")
        clients.removeLast().close()
        _ = try guest.accept(port: 52)
        #expect(try next.receiveLine()?.hasPrefix("OK ") == true)
        #expect(try device.counters().clientsTurnedAway == 0)

        clients.append(try device.client())
        try eventually { try device.inspect { $0.host.listener?.clientCount } == limit }
        let impatient = try device.client()
        try impatient.send("CONNECT 52\n")
        _ = try guest.accept(port: 52)
        #expect(try impatient.receiveLine()?.hasPrefix("OK ") == true)
        // The oldest has lost its place, and only that.
        #expect(try clients[0].isClosedWithoutText())
        #expect(try device.counters().clientsTurnedAway == 1)
        #expect(try clients[1].ready([.readable]).isEmpty)
    }

    @Test("clients that leave before the newline leave nothing behind")
    func leaveEarly() throws {
        let device = try TestDevice()
        let guest = try device.guest()
        for text in ["", "C", "CONNECT 5"] {
            let client = try device.client()
            try client.send(text)
            client.close()
        }
        try eventually { try device.counters().clientsFailed == 3 }
        // A command without its newline is none, even at the end of file.
        let halfClosed = try device.client()
        try halfClosed.send("CONNECT 52")
        try halfClosed.shutdown(.send)
        #expect(try halfClosed.isClosedWithoutText())
        #expect(try device.inspect { $0.host.listener?.clientCount } == 0)
        _ = try ConnectedPair(device, guest, .stream, from: .host)
    }

    @Test("a client that leaves before OK: the guest's connection is reset or ended, and nothing stays")
    func leaveBeforeAnswer() throws {
        let device = try TestDevice()
        let guest = PacketGuest(try device.driver())
        let client = try device.client()
        try client.send("CONNECT 52\n")
        let request = try guest.next().header
        client.close()
        try eventually { try device.inspect { $0.host.sockets.allSatisfy { $0 == nil } } }
        try guest.send(guest.reply(to: request, .response))
        #expect(try guest.next().header.operation == .reset)
        #expect(try device.connectionCount() == 0)
    }

    @Test("a client that only shuts its sending side before OK gets its answer and the guest's data")
    func halfCloseBeforeAnswer() throws {
        let device = try TestDevice()
        let guest = PacketGuest(try device.driver())
        let client = try device.client()
        try client.send("CONNECT 52\n")
        try client.shutdown(.send)
        let request = try guest.next().header
        try guest.send(guest.reply(to: request, .response))
        #expect(try client.receiveLine()?.hasPrefix("OK ") == true)
        let shutdown = try guest.next().header
        #expect(shutdown.operation == .shutdown)
        #expect(shutdown.flags == ShutdownFlags.send.rawValue)
        try guest.send(guest.reply(to: request, .readWrite), payload: [1, 2, 3])
        #expect(try client.receive() == [1, 2, 3])
    }
}
