// SPDX-License-Identifier: Apache-2.0
//
// The ways in which a peer can go wrong with the records of the RFC v5 framing, and what a program gets to see of each:
// the series' rules for arriving packets and for reading a record, one row per case.

import Testing
import VsockWire

/// One way to go wrong, and what comes of it.
struct PeerFault: Sendable, CustomTestStringConvertible {
    /// A record that the program receives.
    struct Record: Sendable, Equatable, ExpressibleByStringLiteral {
        var text: String
        var endOfRecord = false

        init(_ text: String, endOfRecord: Bool = false) {
            self.text = text
            self.endOfRecord = endOfRecord
        }

        init(stringLiteral value: String) { self.init(value) }
    }

    let testDescription: String
    let packets: [ScriptedPacket]
    /// What the program receives of it.
    let records: [Record]
    /// Types of the resets that the peer is sent; none of them ends the connection.
    let resets: [SocketType]

    init(
        _ description: String, _ packets: [ScriptedPacket], gives records: [Record] = [], resets: [SocketType] = []
    ) {
        testDescription = description
        self.packets = packets
        self.records = records
        self.resets = resets
    }

    static let lost = [
        PeerFault("a record before it is whole", [.begin(0, 3), .data("abc"), .end(1)], gives: ["abc"]),
        PeerFault("SEQ_BEGIN is lost: orphans", [.data("abc"), .end(1)]),
        PeerFault(
            "SEQ_BEGIN of the second record is lost",
            [
                .begin(0, 1), .data("a"), .end(1), .data("bc"), .end(3), .begin(4, 1), .data("d"), .end(5),
            ], gives: ["a", "d"]),
        PeerFault("an RW is lost: the length is wrong", [.begin(0, 6), .data("abc"), .end(1)]),
        PeerFault("every RW is lost", [.begin(0, 3), .end(1)]),
        PeerFault("SEQ_END is lost: the next SEQ_BEGIN starts anew", [.begin(0, 3), .data("abc")]),
        PeerFault("all but SEQ_BEGIN is lost", [.begin(0, 3)]),
        PeerFault(
            "SEQ_END and the next SEQ_BEGIN are lost: more bytes than announced",
            [.begin(0, 3), .data("abc"), .data("de"), .end(3)]),
        PeerFault(
            "SEQ_END, SEQ_BEGIN and the RW between are lost: the counter is wrong",
            [.begin(0, 3), .data("abc"), .end(3)]),
        PeerFault(
            "a whole record is lost: nobody sees it",
            [.begin(0, 1), .data("a"), .end(1), .begin(4, 1), .data("c"), .end(5)], gives: ["a", "c"]),
    ]

    static let repeated = [
        PeerFault("SEQ_BEGIN", [.begin(0, 3), .begin(0, 3), .data("abc"), .end(1)], gives: ["abc"]),
        PeerFault(
            "SEQ_BEGIN in the middle: what came before is void",
            [.begin(0, 3), .data("ab"), .begin(0, 3), .data("abc"), .end(1)], gives: ["abc"]),
        PeerFault("an RW: too long", [.begin(0, 6), .data("abc"), .data("abc"), .data("def"), .end(1)]),
        PeerFault("SEQ_END: an orphan", [.begin(0, 3), .data("abc"), .end(1), .end(1)], gives: ["abc"]),
        PeerFault(
            "the whole record",
            [.begin(0, 3), .data("abc"), .end(1), .begin(0, 3), .data("abc"), .end(1)], gives: ["abc", "abc"]),
    ]

    static let reordered = [
        PeerFault("RW before SEQ_BEGIN", [.data("abc"), .begin(0, 3), .end(1)]),
        PeerFault("SEQ_END before RW", [.begin(0, 3), .end(1), .data("abc")]),
        PeerFault("SEQ_END before SEQ_BEGIN", [.end(1), .begin(0, 3), .data("abc")]),
        PeerFault(
            "two RW of a record: nobody sees it", [.begin(0, 6), .data("def"), .data("abc"), .end(1)],
            gives: ["defabc"]),
        PeerFault(
            "two records into each other: the second one survives if it is whole",
            [.begin(0, 1), .begin(2, 1), .data("b"), .end(3), .data("a"), .end(1)], gives: ["b"]),
    ]

    static let corrupt = [
        PeerFault("SEQ_END has the counter of SEQ_BEGIN", [.begin(7, 1), .data("a"), .end(7)]),
        PeerFault("SEQ_END counts two on", [.begin(7, 1), .data("a"), .end(9)]),
        PeerFault("SEQ_END counts back", [.begin(7, 1), .data("a"), .end(6)]),
        PeerFault("the counter wraps: good", [.begin(.max, 1), .data("a"), .end(0)], gives: ["a"]),
        PeerFault(
            "the counter does not go on from the last record: good",
            [
                .begin(7, 1), .data("a"), .end(8), .begin(3, 1), .data("b"), .end(4),
            ], gives: ["a", "b"]),
        PeerFault("SEQ_BEGIN announces too little", [.begin(0, 2), .data("abc"), .end(1)]),
        PeerFault("SEQ_BEGIN announces nothing", [.begin(0, 0), .data("abc"), .end(1)]),
        PeerFault("SEQ_BEGIN announces too much", [.begin(0, 4), .data("abc"), .end(1)]),
        PeerFault("SEQ_BEGIN announces 4 GiB", [.begin(0, .max), .data("abc"), .end(1)]),
        PeerFault("SEQ_END has a length: ignored", [.begin(0, 3), .data("abc"), .end(1, length: 77)], gives: ["abc"]),
        PeerFault(
            "markers have flags: ignored",
            [
                .other(.sequenceBegin, flags: 1, payload: ScriptedPacket.marker(0, 3)), .data("abc"),
                .other(.sequenceEnd, flags: .max, payload: ScriptedPacket.marker(1, 0)),
            ], gives: ["abc"]),
        PeerFault(
            "an RW has flags that do not exist: ignored",
            [
                .begin(0, 3), .data("abc", flags: 0xffff_fffe), .end(1),
            ], gives: ["abc"]),
        PeerFault(
            "an RW without a byte, in a record and outside",
            [
                .data(""), .begin(0, 3), .data(""), .data("abc"), .data(""), .end(1), .data(""),
            ], gives: ["abc"]),
        PeerFault(
            "MSG_EOR of a record that is void does not stay",
            [
                .begin(0, 9), .data("abc", flags: 1), .end(1), .begin(2, 1), .data("a"), .end(3),
            ], gives: ["a"]),
        PeerFault(
            "MSG_EOR on one RW counts for the record",
            [
                .begin(0, 3), .data("a"), .data("b", flags: 1), .data("c"), .end(1),
            ], gives: [Record("abc", endOfRecord: true)]),
    ]

    /// A marker of another length than 8 ends what is under way, and begins nothing.
    static let markerLengths = [0, 1, 4, 7, 9, 16].flatMap { byteCount in
        let payload = [UInt8](repeating: 0, count: byteCount)
        return [
            PeerFault(
                "SEQ_BEGIN of \(byteCount) bytes",
                [
                    .other(.sequenceBegin, payload: payload), .data("abc"), .end(1),
                ]),
            PeerFault(
                "SEQ_BEGIN of \(byteCount) bytes in a record",
                [
                    .begin(0, 3), .data("ab"), .other(.sequenceBegin, payload: payload), .data("c"), .end(1),
                ]),
            PeerFault(
                "SEQ_END of \(byteCount) bytes",
                [
                    .begin(0, 3), .data("abc"), .other(.sequenceEnd, payload: payload), .end(1),
                ]),
        ]
    }

    static let types = [
        PeerFault(
            "an RW of a stream in a record: a reset of its type, the record goes on",
            [
                .begin(0, 3), .data("ab"), .other(.readWrite, type: .stream, payload: [1, 2]), .data("c"), .end(1),
            ], gives: ["abc"], resets: [.stream]),
        PeerFault(
            "a marker of a stream",
            [
                .begin(0, 3), .other(.sequenceBegin, type: .stream, payload: ScriptedPacket.marker(1, 3)), .data("abc"),
                .other(.sequenceEnd, type: .stream, payload: ScriptedPacket.marker(2, 0)), .end(1),
            ], gives: ["abc"], resets: [.stream, .stream]),
        PeerFault(
            "a type that does not exist",
            [
                .begin(0, 3), .data("abc"), .other(.readWrite, type: SocketType(rawValue: 3), payload: [1]), .end(1),
            ], gives: ["abc"], resets: [SocketType(rawValue: 3)]),
        PeerFault(
            "a reset of a stream is no reset of the connection, and is not answered",
            [
                .begin(0, 1), .data("a"), .other(.reset, type: .stream), .end(1),
            ], gives: ["a"]),
    ]

    static let empty = [
        PeerFault("an empty record", [.begin(0, 0), .end(1)], gives: [""]),
        PeerFault("an empty record that is void", [.begin(0, 0), .end(2)]),
    ]

    static let all = lost + repeated + reordered + corrupt + markerLengths + types + empty
}
