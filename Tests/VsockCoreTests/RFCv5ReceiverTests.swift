// SPDX-License-Identifier: Apache-2.0
//
// The rfc-v5 framing, receiving: everything a sender of the series may do, and everything it should not.

import Testing
import VsockCore
import VsockTestSupport
import VsockWire

@Suite("RFC v5 framing, receiver")
struct RFCv5ReceiverTests {
    /// A guest that sends to a seqpacket connection of the host, and what the host makes of it.
    struct Script: ~Copyable {
        var host = Endpoint(.host(.rfcV5))
        var peer = PacketBuilder(type: .seqpacket)
        let id: ConnectionID
        /// `payload 5`, `record EOR`, ...: what the application saw, in order.
        var seen: [String] = []
        var sentByteCount = 0

        init(buffer: UInt32 = 1000) throws {
            var configuration = EndpointConfiguration.host(.rfcV5)
            configuration.bufferByteCount = buffer
            host = Endpoint(configuration)
            id = try host.acceptConnection(from: peer)
        }

        mutating func begin(_ count: UInt32, length: UInt32) {
            let marker = SequenceHeader(messageCount: count, messageByteCount: length)
            receive(peer.packet(.sequenceBegin, payloadByteCount: 8), marker)
        }

        mutating func end(_ count: UInt32, length: UInt32 = 0) {
            let marker = SequenceHeader(messageCount: count, messageByteCount: length)
            receive(peer.packet(.sequenceEnd, payloadByteCount: 8), marker)
        }

        mutating func data(_ byteCount: UInt32, flags: UInt32 = 0) {
            receive(peer.packet(.readWrite, flags: flags, payloadByteCount: byteCount), nil)
        }

        /// Whatever the receiver says, all bytes are consumed at once.
        mutating func receive(_ header: PacketHeader, _ marker: SequenceHeader?) {
            sentByteCount += Int(header.payloadByteCount)
            switch host.receive(header, marker: marker) {
            case .handled: break
            case .payload(_, let verdict):
                if verdict.discardsUnfinishedRecord { seen.append("discard") }
                if verdict.deliversPayload {
                    seen.append("payload \(header.payloadByteCount)")
                    host.consume(id, byteCount: Int(header.payloadByteCount))
                }
                if verdict.endsRecord { seen.append(verdict.hasEndOfRecordMark ? "record EOR" : "record") }
            case let other: seen.append("\(other)")
            }
        }

        /// No reset was sent, the connection lives, and every byte that came was credited.
        mutating func check(_ expected: [String], sourceLocation: SourceLocation = #_sourceLocation) {
            let seen = seen
            #expect(seen == expected, sourceLocation: sourceLocation)
            let packets = host.allControlPackets().filter { $0.operation != .creditUpdate }
            #expect(packets.isEmpty, sourceLocation: sourceLocation)
            let credit = host.snapshot(id)?.credit
            #expect(credit?.receivedByteCount == 0, sourceLocation: sourceLocation)
            let forwarded = credit.map { Int($0.forwardedCount) }
            #expect(forwarded == sentByteCount, sourceLocation: sourceLocation)
        }
    }

    @Test("accepts any RW split", arguments: [[100], [1, 99], [50, 50], [33, 33, 33, 1], []] as [[UInt32]])
    func anySplit(pieces: [UInt32]) throws {
        var script = try Script()
        script.begin(0, length: pieces.reduce(0, +))
        for piece in pieces { script.data(piece) }
        script.end(1)
        script.check(pieces.map { "payload \($0)" } + ["record"])
    }

    @Test("gives an empty record to the application")
    func emptyRecord() throws {
        var script = try Script()
        script.begin(0, length: 0)
        script.end(1)
        script.check(["record"])
    }

    @Test("takes RW_EOR from any packet of the record, and forgets it with the record")
    func endOfRecordMark() throws {
        var script = try Script()
        script.begin(0, length: 3)
        script.data(1)
        script.data(1, flags: 1)
        script.data(1)
        script.end(1)
        script.begin(2, length: 1)
        script.data(1)
        script.end(3)
        script.check(["payload 1", "payload 1", "payload 1", "record EOR", "payload 1", "record"])
    }

    @Test("ignores the length in SEQ_END and other bits than RW_EOR")
    func ignoredFields() throws {
        var script = try Script()
        script.begin(0, length: 1)
        script.data(1, flags: 0xffff_fffe)
        script.end(1, length: 77)
        script.check(["payload 1", "record"])
    }

    @Test("compares the counters of one record only, across the wrap", arguments: [0, 7, 0xffff_ffff] as [UInt32])
    func counters(first: UInt32) throws {
        var script = try Script()
        for count in [first, 3, 3] {
            script.begin(count, length: 1)
            script.data(1)
            script.end(count &+ 1)
        }
        script.check(["payload 1", "record", "payload 1", "record", "payload 1", "record"])
    }

    @Test("discards on mismatch without RST: the counters do not match", arguments: [0, 2, 99] as [UInt32])
    func wrongCounter(count: UInt32) throws {
        var script = try Script()
        script.begin(0, length: 1)
        script.data(1)
        script.end(count)
        script.begin(5, length: 2)
        script.data(2)
        script.end(6)
        script.check(["payload 1", "discard", "payload 2", "record"])
    }

    @Test("discards on mismatch without RST: bytes are missing")
    func tooShort() throws {
        var script = try Script()
        script.begin(0, length: 10)
        script.data(9)
        script.end(1)
        script.begin(2, length: 1)
        script.data(1)
        script.end(3)
        script.check(["payload 9", "discard", "payload 1", "record"])
    }

    @Test("discards on mismatch without RST: more bytes come than announced, and the rest of it are orphans")
    func tooLong() throws {
        var script = try Script()
        script.begin(0, length: 10)
        script.data(9)
        script.data(2)
        script.data(3)
        script.end(1)
        script.begin(2, length: 1)
        script.data(1)
        script.end(3)
        script.check(["payload 9", "discard", "payload 1", "record"])
    }

    @Test("restarts on BEGIN, whatever was under way")
    func restart() throws {
        var script = try Script()
        script.begin(0, length: 10)
        script.data(4, flags: 1)
        script.begin(1, length: 10)
        script.begin(2, length: 3)
        script.data(3)
        script.end(3)
        script.check(["payload 4", "discard", "discard", "payload 3", "record"])
    }

    @Test("orphans are dropped and credited, before the first record and between records")
    func orphans() throws {
        var script = try Script()
        script.data(5, flags: 1)
        script.end(0)
        script.data(0)
        script.begin(0, length: 1)
        script.data(1)
        script.end(1)
        script.end(2)
        script.data(7)
        script.begin(3, length: 1)
        script.data(1)
        script.end(4)
        script.check(["payload 1", "record", "payload 1", "record"])
    }

    @Test("takes an RW without bytes as nothing, but for its mark")
    func emptyData() throws {
        var script = try Script()
        script.begin(0, length: 1)
        script.data(0, flags: 1)
        script.data(1)
        script.end(1)
        script.check(["payload 1", "record EOR"])
    }

    @Test("a marker of another length ends what was under way and begins nothing", arguments: [0, 7, 9] as [UInt32])
    func markerOfWrongLength(byteCount: UInt32) throws {
        for operation in [Operation.sequenceBegin, .sequenceEnd] {
            var script = try Script()
            script.begin(0, length: 1)
            script.data(1)
            script.receive(script.peer.packet(operation, payloadByteCount: byteCount), nil)
            script.data(1)
            script.end(1)
            script.check(["payload 1", "discard"])
        }
    }

    @Test("credits fragments early, so that a record larger than the buffer gets through")
    func largeRecord() throws {
        var script = try Script(buffer: 100)
        script.begin(0, length: 1000)
        for _ in 0..<20 { script.data(50) }
        script.end(1)
        script.check(Array(repeating: "payload 50", count: 20) + ["record"])
    }

    @Test("counts markers against the buffer")
    func markersNeedSpace() throws {
        var script = try Script(buffer: 107)
        let reception = script.host.receive(script.peer.packet(.readWrite, payloadByteCount: 108))
        #expect(reception == .reset(script.id, .creditExceeded))
        var host = Endpoint(.host(.rfcV5))
        let id = try host.acceptConnection(from: script.peer)
        host.receive(
            script.peer.packet(.sequenceBegin, payloadByteCount: 8),
            marker: SequenceHeader(messageCount: 0, messageByteCount: 300_000))
        host.receive(script.peer.packet(.readWrite, payloadByteCount: 262_144 - 7))
        let exceeding = host.receive(script.peer.packet(.sequenceEnd, payloadByteCount: 8), marker: nil)
        #expect(exceeding == .reset(id, .creditExceeded))
    }

    @Test("RST on type mismatch, which leaves a record under way alone")
    func typeMismatch() throws {
        var script = try Script()
        script.begin(0, length: 2)
        script.data(1)
        let reception = script.host.receive(PacketBuilder(type: .stream).packet(.readWrite, payloadByteCount: 1))
        #expect(reception == .dropped(.wrongType))
        let replies = script.host.allControlPackets()
        #expect(replies.map(\.type) == [.stream] && replies.map(\.operation) == [.reset])
        #expect(replies.map(\.bufferAllocation) == [0])
        script.data(1)
        script.end(1)
        script.check(["payload 1", "payload 1", "record"])
    }
}
