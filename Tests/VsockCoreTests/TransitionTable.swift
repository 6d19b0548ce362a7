// SPDX-License-Identifier: Apache-2.0
//
// The complete transition table of a connection, as text. Every state meets every operation exactly once, which a test
// checks; a SHUTDOWN comes with each combination of its flags.
//
//      state before | operations | what receive() says | state after | packets owed
//
// "none", "listening" and "asking" are ports without a connection: no one there, a listener, and the caller to be
// asked.

enum TransitionTable {
    /// A stream connection; the framing is the standard one.
    static let stream = """
        none | REQUEST | dropped noListener | - | RST
        none | RST | dropped noConnection | - | -
        none | INVALID RESPONSE RW CREDIT_UPDATE CREDIT_REQUEST SEQ_BEGIN SEQ_END OP_10 | dropped noConnection | - | RST
        none | SHUTDOWN0 SHUTDOWN1 SHUTDOWN2 SHUTDOWN3 | dropped noConnection | - | RST
        listening | REQUEST | accepted | established | RESPONSE
        listening | RST | dropped noConnection | - | -
        listening | INVALID RESPONSE RW CREDIT_UPDATE CREDIT_REQUEST | dropped noConnection | - | RST
        listening | SEQ_BEGIN SEQ_END OP_10 | dropped noConnection | - | RST
        listening | SHUTDOWN0 SHUTDOWN1 SHUTDOWN2 SHUTDOWN3 | dropped noConnection | - | RST
        asking | REQUEST | requested | requested | -
        asking | RST | dropped noConnection | - | -
        asking | INVALID RESPONSE RW CREDIT_UPDATE CREDIT_REQUEST | dropped noConnection | - | RST
        asking | SEQ_BEGIN SEQ_END OP_10 | dropped noConnection | - | RST
        asking | SHUTDOWN0 SHUTDOWN1 SHUTDOWN2 SHUTDOWN3 | dropped noConnection | - | RST
        connecting | RESPONSE | connected | established | -
        connecting | INVALID | dropped ending | connecting | -
        connecting | RST | connectFailed ECONNRESET | free | -
        connecting | REQUEST RW CREDIT_UPDATE CREDIT_REQUEST | connectFailed EPROTO | resetting | RST
        connecting | SEQ_BEGIN SEQ_END OP_10 | connectFailed EPROTO | resetting | RST
        connecting | SHUTDOWN0 SHUTDOWN1 SHUTDOWN2 SHUTDOWN3 | connectFailed EPROTO | resetting | RST
        requested | RST | reset byPeer | free | -
        requested | INVALID REQUEST RESPONSE RW CREDIT_UPDATE CREDIT_REQUEST | reset unknownOperation | resetting | RST
        requested | SEQ_BEGIN SEQ_END OP_10 | reset unknownOperation | resetting | RST
        requested | SHUTDOWN0 SHUTDOWN1 SHUTDOWN2 SHUTDOWN3 | reset unknownOperation | resetting | RST
        established | RW | payload | established | -
        established | CREDIT_UPDATE SHUTDOWN0 | handled | established | -
        established | CREDIT_REQUEST | handled | established | CREDIT_UPDATE
        established | SHUTDOWN1 | peerShutdown 1 | established | -
        established | SHUTDOWN2 | peerShutdown 2 | established | -
        established | SHUTDOWN3 | peerShutdown 3 | established | -
        established | RST | reset byPeer | free | -
        established | INVALID REQUEST RESPONSE SEQ_BEGIN SEQ_END OP_10 | reset unknownOperation | resetting | RST
        closing | RST | handled | free | -
        closing | SHUTDOWN3 | handled | resetting | RST
        closing | SHUTDOWN0 SHUTDOWN1 SHUTDOWN2 | handled | closing | -
        closing | RW SEQ_BEGIN SEQ_END | dropped ending | closing | -
        closing | INVALID REQUEST RESPONSE CREDIT_UPDATE CREDIT_REQUEST OP_10 | dropped ending | closing | -
        resetting | RST | handled | free | -
        resetting | REQUEST | accepted | established | RESPONSE
        resetting | INVALID RESPONSE RW CREDIT_UPDATE CREDIT_REQUEST | dropped ending | resetting | RST
        resetting | SEQ_BEGIN SEQ_END OP_10 | dropped ending | resetting | RST
        resetting | SHUTDOWN0 SHUTDOWN1 SHUTDOWN2 SHUTDOWN3 | dropped ending | resetting | RST
        """

    /// Where a seqpacket connection in the standard framing differs.
    static let standardSeqpacket = """
        established | RW | payload | established | -
        established | SEQ_BEGIN SEQ_END OP_10 | reset unknownOperation | resetting | RST
        """

    /// Where a seqpacket connection in the rfc-v5 framing differs: payload out of a record is an orphan.
    static let rfcV5Seqpacket = """
        connecting | SEQ_BEGIN SEQ_END | connectFailed EPROTO | resetting | RST
        requested | SEQ_BEGIN SEQ_END | reset unknownOperation | resetting | RST
        established | RW SEQ_BEGIN SEQ_END | handled | established | -
        established | OP_10 | reset unknownOperation | resetting | RST
        closing | RW SEQ_BEGIN SEQ_END | dropped ending | closing | -
        """

    struct Row: Sendable, CustomStringConvertible {
        var before: String
        var operation: String
        var reception: String
        var after: String
        var owed: String

        var description: String { "\(before) | \(operation) | \(reception) | \(after) | \(owed)" }
    }

    static func rows(_ table: String) -> [Row] {
        table.split(separator: "\n").flatMap { line in
            let cells = line.split(separator: "|").map { $0.trimmingSpaces() }
            precondition(cells.count == 5, "not a row: \(line)")
            return cells[1].split(separator: " ").map {
                Row(before: cells[0], operation: String($0), reception: cells[2], after: cells[3], owed: cells[4])
            }
        }
    }
}

extension Substring {
    func trimmingSpaces() -> String {
        String(drop { $0 == " " }.reversed().drop { $0 == " " }.reversed())
    }
}
