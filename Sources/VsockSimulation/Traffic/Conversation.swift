// SPDX-License-Identifier: Apache-2.0

import VsockTestSupport
import VsockWire

/// Who takes part in a conversation.
enum Party: Equatable {
    /// A program on the host, over the sockets of a machine.
    case host(machine: Int)
    /// A program in the guest of a machine.
    case guest(machine: Int)

    var machine: Int {
        switch self {
        case .host(let machine), .guest(let machine): machine
        }
    }

    var isHost: Bool { if case .host = self { true } else { false } }
}

/// One connection of a simulation, from the request to the end at both sides.
final class Conversation {
    let index: Int
    let type: SocketType
    let initiator: Party
    let acceptor: Party
    let ends: (initiator: TrafficEnd, acceptor: TrafficEnd)
    /// A fault has ended it, or may: it need not come to a good end, only to some end.
    var isDoomed = false
    /// A fault may have kept it from beginning.
    var mayBeRefused = false
    /// A hostile guest takes part: nobody can say what it carries.
    var isUnchecked = false
    /// The acceptor has taken it, and the initiator knows that.
    var isEstablished = false
    var isConnected = false
    /// The initiator was told that there is no connection.
    var isRefused = false

    init(
        index: Int, type: SocketType, from initiator: Party, to acceptor: Party, scripts: (Script, Script),
        carriesMarks: Bool
    ) {
        self.index = index
        self.type = type
        self.initiator = initiator
        self.acceptor = acceptor
        ends = (
            TrafficEnd(type, outgoing: scripts.0, incoming: scripts.1, carriesMarks: carriesMarks),
            TrafficEnd(type, outgoing: scripts.1, incoming: scripts.0, carriesMarks: carriesMarks)
        )
    }

    /// The port on which the acceptor listens: no two conversations share one.
    var port: UInt32 { UInt32(10_000 + index) }
    /// The port from which a guest connects.
    var originPort: UInt32 { UInt32(20_000 + index) }

    func concerns(_ machine: Int) -> Bool { initiator.machine == machine || acceptor.machine == machine }

    /// Whether both ends are done.
    var isOver: Bool { ends.initiator.isClosed && (ends.acceptor.isClosed || isRefused) }

    /// The initiator was told that there is no connection, or waited in vain.
    func connectFailed() {
        guard isEstablished else { return refuse() }
        if mayBeRefused { isDoomed = true }
        ends.initiator.isClosed = true
    }

    /// Nobody accepted it, or will.
    func refuse() {
        isRefused = true
        ends.initiator.isClosed = true
        ends.acceptor.isClosed = true
    }

    /// What is wrong with it, now that it is over; nil when all is well.
    var defect: String? {
        for (name, end) in [("initiator", ends.initiator), ("acceptor", ends.acceptor)] {
            if let defect = end.defect { return "the \(name) received \(defect)" }
        }
        guard isOver, !isDoomed else { return nil }
        if isRefused { return mayBeRefused ? nil : "it was refused" }
        for (name, end) in [("initiator", ends.initiator), ("acceptor", ends.acceptor)] {
            if !end.hasReceivedAll {
                return "the \(name) received \(end.receivedByteCount) of \(end.incoming.byteCount) bytes, "
                    + "\(end.receivedParts) of \(end.incoming.parts.count) parts"
            }
        }
        return nil
    }
}

extension Conversation: CustomStringConvertible {
    var description: String { "conversation \(index) (\(type), \(initiator) to \(acceptor))" }
}
