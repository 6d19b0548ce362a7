// SPDX-License-Identifier: Apache-2.0
//
// What the calls of a script have built so far: who is connected to whom, what waits unread, which ports are taken. It
// follows the results of the calls and predicts none; KeptDifference and Generator ask it.

import VsockCore
import VsockTransport
import VsockWire

/// One direction of a connection.
struct ScriptFlow {
    /// What the receiver has not read: lengths of records, or of what a stream was sent in one call.
    var unread: [Int] = []
    /// Bytes that the receiver of a stream has read since it had read everything: the sender may not know of them.
    var untoldByteCount = 0
    /// Packets since the receiver had read everything.
    var packetCount = 0

    var unreadByteCount: Int { unread.reduce(0, +) }

    /// Packets that so many bytes are sent in, at most 64 KiB each.
    static func packetCount(_ byteCount: Int) -> Int { (byteCount + 65_535) / 65_536 }

    mutating func sent(_ byteCount: Int) {
        guard byteCount > 0 else { return }
        unread.append(byteCount)
        packetCount += Self.packetCount(byteCount)
    }

    mutating func receivedRecord() {
        guard !unread.isEmpty else { return }
        packetCount -= Self.packetCount(unread.removeFirst())
    }

    mutating func receivedBytes(_ byteCount: Int) {
        var left = byteCount
        while left > 0, let first = unread.first {
            let count = min(left, first)
            left -= count
            if count == first { unread.removeFirst() } else { unread[0] -= count }
        }
        untoldByteCount += byteCount
        if unread.isEmpty {
            untoldByteCount = 0
            packetCount = 0
        }
    }
}

/// A connection; side 0 has connected, side 1 listened.
final class ScriptConnection {
    let type: SocketType
    /// Towards each side.
    var flows = [ScriptFlow(), ScriptFlow()]
    var bufferSizes: [Int]
    var isOpen = [true, true]
    var hasShutReceive = [false, false]
    var hasShutSend = [false, false]

    init(_ type: SocketType, bufferSizes: [Int]) {
        self.type = type
        self.bufferSizes = bufferSizes
    }

    /// Whether nothing can cross between a side and its peer any more, by the doing of either: the connection ends.
    func hasEnded(_ side: Int) -> Bool {
        !isOpen[1 - side] || [0, 1].contains { hasShutSend[$0] && hasShutReceive[$0] }
    }
}

/// A socket of a script.
struct ScriptSocket {
    let type: SocketType
    var port: UInt32?
    var backlog: Int?
    var acceptQueue: [ScriptConnection] = []
    var connection: ScriptConnection?
    var side = 0
    /// A connect that did not wait was refused.
    var wasRefused = false
    /// It was shut down when its connection had ended already.
    var wasShutAfterEnd = false
}

/// The sockets of a script.
struct ScriptConnections {
    private(set) var sockets: [Int: ScriptSocket] = [:]
    /// Ports of sockets that were closed before their peers.
    private(set) var lingeringPorts: Set<UInt32> = []

    /// Takes over what a call came to. `slots` are the sockets that it was made on.
    mutating func follow(_ call: SocketCall, _ outcome: String, _ slots: [Int: any ScriptedSocket]) {
        let slot = call.slot
        guard outcome != "no socket", outcome != "in use" else { return }
        if case .socket(_, let type) = call, outcome == "ok" { sockets[slot] = ScriptSocket(type: type) }
        guard var socket = sockets[slot] else { return }
        defer { if sockets[slot] != nil { sockets[slot] = socket } }
        switch call {
        case .bind(_, _, let port) where outcome == "ok": socket.port = port
        case .listen(_, let backlog) where outcome == "ok": socket.backlog = backlog
        case .connect(_, _, let port, let noWait): connect(&socket, port, noWait, slots[slot], slots)
        case .accept(_, let new, _) where outcome.hasPrefix("accepted") && !socket.acceptQueue.isEmpty:
            let connection = socket.acceptQueue.removeFirst()
            sockets[new] = ScriptSocket(type: socket.type, connection: connection, side: 1)
        case .send: if let count = Self.number(outcome, after: "sent ") { peerFlow(socket) { $0.sent(count) } }
        case .receive(_, let wanted, let flags) where wanted > 0 && !flags.contains(.peek):
            if let count = Self.number(outcome, after: "received ") { received(socket, count) }
        case .shutdown(_, let direction) where outcome == "ok":
            guard let connection = socket.connection else { break }
            if connection.hasEnded(socket.side) { socket.wasShutAfterEnd = true }
            if direction != .wr { connection.hasShutReceive[socket.side] = true }
            if direction != .rd { connection.hasShutSend[socket.side] = true }
        case .set:
            let size = try? slots[slot]?.get(.size)
            if let size { socket.connection?.bufferSizes[socket.side] = size }
        case .close:
            for child in socket.acceptQueue { child.isOpen[1] = false }
            if let connection = socket.connection {
                connection.isOpen[socket.side] = false
                if let port = socket.port, connection.isOpen[1 - socket.side] { lingeringPorts.insert(port) }
            }
            sockets[slot] = nil
        default: break
        }
    }

    private mutating func connect(
        _ socket: inout ScriptSocket, _ port: SocketCall.Port, _ noWait: Bool, _ made: (any ScriptedSocket)?,
        _ slots: [Int: any ScriptedSocket]
    ) {
        guard socket.connection == nil, let made else { return }
        guard (try? made.peerAddress()) != nil else {
            socket.wasRefused = socket.wasRefused || noWait
            return
        }
        let target: Int? =
            switch port {
            case .of(let slot): slot
            case .number(let number): sockets.first { $0.value.port == number && $0.value.backlog != nil }?.key
            }
        let sizes = [made, target.flatMap { slots[$0] }].map { (try? $0?.get(.size)) ?? 0 }
        let connection = ScriptConnection(socket.type, bufferSizes: sizes)
        socket.connection = connection
        if let target { sockets[target]?.acceptQueue.append(connection) }
    }

    private func peerFlow(_ socket: ScriptSocket, _ body: (inout ScriptFlow) -> Void) {
        guard let connection = socket.connection else { return }
        body(&connection.flows[1 - socket.side])
    }

    private func received(_ socket: ScriptSocket, _ count: Int) {
        guard let connection = socket.connection, !connection.hasShutReceive[socket.side] else { return }
        if socket.type == .seqpacket {
            connection.flows[socket.side].receivedRecord()
        } else {
            connection.flows[socket.side].receivedBytes(count)
        }
    }

    private static func number(_ text: String, after prefix: String) -> Int? {
        guard text.hasPrefix(prefix) else { return nil }
        return Int(text.dropFirst(prefix.count).prefix { $0.isNumber })
    }
}
