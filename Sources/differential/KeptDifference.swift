// SPDX-License-Identifier: Apache-2.0
//
// Where this package differs from Linux on purpose, and scripts are not comparable: a call that would show a difference
// listed here is left out of a script. Documentation/Conformance.md has the list with the reasons.

import VsockTransport
import VsockWire

/// A difference from Linux 6.12 that is kept; the raw value is its name in the documentation.
enum KeptDifference: String, CaseIterable {
    case ownBuffer = "a sender may use the peer's buffer when its own is smaller"
    case wholeRecords = "a record that has to wait for space is not begun"
    case manyPackets = "many small packets wait, the connection is not reset"
    case untoldSpace = "when a sender learns of the space that a reader has made"
    case refusedConnect = "a socket whose non-blocking connect was refused is as new"
    case shutPeerName = "the peer's address is known after shutdown"
    case localContextID = "the address of a connected socket has its context ID"
    case waitForWholeBuffer = "a receive may wait for as many bytes as the buffer holds"
    case endStaysEnd = "a connection that has ended can be received from after shutdown"
    case hangUpAtEnd = "the end of both directions is a hang-up, whoever has ended them"
    case writableAtEnd = "a socket whose peer takes nothing more is writable"
    case portOfClosed = "a closed socket's port is free at once"
    case unsentAlways = "unsent bytes of a socket without connection are 0"
    case oneContextID = "a loopback has one context ID, and CID 2 is another name for it"
    case recordsAreReadable = "a record is readable whatever SO_RCVLOWAT is"

    /// The difference that a call on `slots`, with what `connections` knows of them, would show; nil when it is comparable.
    static func of(
        _ call: SocketCall, _ connections: ScriptConnections, _ slots: [Int: any ScriptedSocket]
    ) -> KeptDifference? {
        guard let socket = connections.sockets[call.slot] else { return nil }
        switch call {
        case .bind(_, _, let port): return connections.lingeringPorts.contains(port) ? .portOfClosed : nil
        case .connect(_, 2, _, _): return .oneContextID
        case .connect, .listen, .shutdown: return socket.wasRefused ? .refusedConnect : nil
        case .send(_, let count, _, _, _): return ofSend(count, socket)
        case .receive(_, let count, let flags):
            if socket.wasShutAfterEnd { return .endStaysEnd }
            guard socket.type == .stream, let made = slots[call.slot] else { return nil }
            let mark = flags.contains(.waitAll) ? count : min(count, (try? made.get(.lowat)) ?? 1)
            return mark >= ((try? made.get(.size)) ?? 0) ? .waitForWholeBuffer : nil
        case .poll:
            let mark = (try? slots[call.slot]?.get(.lowat)) ?? 1
            return socket.type == .seqpacket && mark > 1 ? .recordsAreReadable : ofPoll(socket)
        case .peer:
            guard let connection = socket.connection else { return nil }
            let hasShut = connection.hasShutSend[socket.side] || connection.hasShutReceive[socket.side]
            return hasShut ? .shutPeerName : nil
        case .name: return socket.connection != nil && socket.side == 0 ? .localContextID : nil
        case .unsent: return socket.connection == nil ? .unsentAlways : nil
        default: return nil
        }
    }

    private static func ofSend(_ count: Int, _ socket: ScriptSocket) -> KeptDifference? {
        guard let connection = socket.connection, count > 0 else { return nil }
        let peer = 1 - socket.side
        if connection.hasShutSend[socket.side] || connection.hasShutReceive[peer] || connection.hasEnded(socket.side) {
            return nil
        }
        let flow = connection.flows[peer]
        let buffer = connection.bufferSizes[peer]
        if flow.packetCount + ScriptFlow.packetCount(count) > buffer / 640 { return .manyPackets }
        let used = flow.unreadByteCount + flow.untoldByteCount
        if connection.bufferSizes[socket.side] < min(buffer, used + count) { return .ownBuffer }
        guard used + count > buffer else { return nil }
        if flow.untoldByteCount > 0 { return .untoldSpace }
        guard socket.type == .seqpacket else { return nil }
        return used >= buffer ? (count > buffer ? .wholeRecords : nil) : (count > buffer ? nil : .wholeRecords)
    }

    private static func ofPoll(_ socket: ScriptSocket) -> KeptDifference? {
        guard let connection = socket.connection else { return nil }
        let peer = 1 - socket.side
        let hasEnded = connection.hasEnded(socket.side)
        let receivesNothing = hasEnded || connection.hasShutSend[peer] || connection.hasShutReceive[socket.side]
        let sendsNothing = connection.hasShutSend[socket.side]
        let takesNothing = hasEnded || connection.hasShutReceive[peer]
        if receivesNothing, takesNothing, !sendsNothing { return .hangUpAtEnd }
        let flow = connection.flows[peer]
        let used = flow.unreadByteCount + flow.untoldByteCount
        guard used >= min(connection.bufferSizes[peer], connection.bufferSizes[socket.side]) else { return nil }
        if connection.hasShutReceive[peer] || connection.hasEnded(socket.side) { return .writableAtEnd }
        if used < connection.bufferSizes[peer] { return .ownBuffer }
        return flow.untoldByteCount > 0 ? .untoldSpace : nil
    }
}
