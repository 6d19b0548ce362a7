// SPDX-License-Identifier: Apache-2.0
//
// Runs the calls of a script and says in one line what each came to: a result, or the name of an errno. Ports that a
// socket was not bound to by the script are `auto`, as they differ from run to run.

import VsockCore
import VsockTransport
import VsockWire

/// Runs one script; the sockets left at its end are closed by ``finish()``.
struct Interpreter {
    /// No call waits longer than this unless the script says so: milliseconds.
    static let timeLimit = 20

    private let sockets: any ScriptedSockets
    private(set) var slots: [Int: any ScriptedSocket] = [:]

    init(_ sockets: any ScriptedSockets) { self.sockets = sockets }

    /// Makes a call, and waits until its packets have arrived.
    mutating func run(_ call: SocketCall) throws(SocketError) -> String {
        let outcome: String
        do throws(SocketError) {
            outcome = try perform(call)
        } catch {
            outcome = error.name
        }
        try sockets.settle()
        return outcome
    }

    /// Closes what is open.
    mutating func finish() throws(SocketError) {
        for slot in slots.keys.sorted() { _ = try run(.close(slot)) }
    }

    private mutating func perform(_ call: SocketCall) throws(SocketError) -> String {
        if case .socket(let slot, let type) = call {
            guard slots[slot] == nil else { return "in use" }
            let socket = try sockets.makeSocket(type)
            try Self.limitTime(socket)
            slots[slot] = socket
            return "ok"
        }
        guard let socket = slots[call.slot] else { return "no socket" }
        switch call {
        case .socket: return ""
        case .bind(_, let cid, let port):
            try socket.bind(to: VsockAddress(cid: .init(rawValue: cid), port: .init(rawValue: port)))
        case .listen(_, let backlog): try socket.listen(backlog: backlog)
        case .connect(_, let cid, let port, let noWait):
            guard let number = try number(of: port) else { return "no port" }
            try socket.connect(to: VsockAddress(cid: .init(rawValue: cid), port: number), noWait: noWait)
        case .accept(_, let slot, let noWait): return try accept(socket, slot, noWait)
        case .send(_, let count, let pattern, let noWait, let endOfRecord):
            let bytes = Self.bytes(count, pattern)
            return "sent \(try socket.send(bytes, noWait: noWait, endOfRecord: endOfRecord))"
        case .receive(_, let count, let flags): return Self.text(try socket.receive(count, flags))
        case .shutdown(_, let direction): try socket.shutdown(direction)
        case .set(_, let option, let value): try socket.set(option, value)
        case .get(_, let option): return "\(try socket.get(option))"
        case .poll: return Self.text(try socket.poll())
        case .error: return try socket.takeError()?.name ?? "none"
        case .name: return Self.text(try socket.localAddress())
        case .peer: return Self.text(try socket.peerAddress())
        case .unsent: return "\(try socket.unsentByteCount())"
        case .close(let slot):
            slots[slot] = nil
            socket.close()
        }
        return "ok"
    }

    private mutating func accept(
        _ listener: any ScriptedSocket, _ slot: Int, _ noWait: Bool
    ) throws(SocketError) -> String {
        guard slots[slot] == nil else { return "in use" }
        let socket = try listener.accept(noWait: noWait)
        slots[slot] = socket
        // What it has from its listener, before it gets what all have.
        var inherited: [String] = []
        for option in SocketCall.Option.allCases { inherited.append("\(option.rawValue) \(try socket.get(option))") }
        try Self.limitTime(socket)
        return "accepted: " + inherited.joined(separator: ", ")
    }

    private func number(of port: SocketCall.Port) throws(SocketError) -> VsockAddress.Port? {
        switch port {
        case .number(let number): return VsockAddress.Port(rawValue: number)
        case .of(let slot):
            guard let address = try slots[slot]?.localAddress(), address.port != .any else { return nil }
            return address.port
        }
    }

    private static func limitTime(_ socket: any ScriptedSocket) throws(SocketError) {
        try socket.set(.rcvtimeo, timeLimit)
        try socket.set(.sndtimeo, timeLimit)
    }

    // MARK: Text

    /// Bytes that tell where they belong: 251 is prime, so that no piece is like another of the same packet.
    private static func bytes(_ count: Int, _ pattern: UInt8) -> [UInt8] {
        [UInt8](unsafeUninitializedCapacity: count) { bytes, initializedCount in
            for index in 0..<count { bytes[index] = UInt8(truncatingIfNeeded: index % 251) &+ pattern }
            initializedCount = count
        }
    }

    /// FNV-1a
    private static func hash(_ bytes: [UInt8]) -> UInt64 {
        var hash: UInt64 = 0xcbf2_9ce4_8422_2325
        bytes.withUnsafeBytes { for byte in $0 { hash = (hash ^ UInt64(byte)) &* 0x100_0000_01b3 } }
        return hash
    }

    private static func text(_ message: ReceivedMessage) -> String {
        "received \(message.result), \(message.bytes.count) bytes \(String(hash(message.bytes), radix: 16))"
            + (message.endOfRecord ? " eor" : "") + (message.truncated ? " trunc" : "")
    }

    private static func text(_ ready: SocketReadiness) -> String {
        let names: [(SocketReadiness, String)] = [
            (.readable, "in"), (.writable, "out"), (.error, "err"), (.hangUp, "hup"), (.readHangUp, "rdhup"),
        ]
        let text = names.filter { ready.contains($0.0) }.map(\.1).joined(separator: " ")
        return text.isEmpty ? "nothing" : text
    }

    private static func text(_ address: VsockAddress) -> String {
        let port = address.port
        let isChosen = port != .any && port.rawValue > Generator.largestPort
        let number = port == .any ? "any" : isChosen ? "auto" : "\(port.rawValue)"
        return (address.cid == .any ? "any" : "\(address.cid.rawValue)") + ":" + number
    }
}
