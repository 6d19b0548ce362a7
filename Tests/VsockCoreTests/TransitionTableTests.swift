// SPDX-License-Identifier: Apache-2.0
//
// Plays every row of the transition table.

import Testing
import VsockTestSupport
import VsockWire

@testable import VsockCore

@Suite("Transition table")
struct TransitionTableTests {
    static let states = [
        "none", "listening", "asking", "connecting", "requested", "established", "closing", "resetting",
    ]
    static let operations = [
        "INVALID", "REQUEST", "RESPONSE", "RST", "SHUTDOWN0", "SHUTDOWN1", "SHUTDOWN2", "SHUTDOWN3", "RW",
        "CREDIT_UPDATE", "CREDIT_REQUEST", "SEQ_BEGIN", "SEQ_END", "OP_10",
    ]

    /// The host's endpoint with port 1234 in the given state towards guest 3, port 0x10000.
    static func endpoint(_ state: String, _ peer: PacketBuilder, _ framing: RecordFraming) throws -> Endpoint {
        var endpoint = Endpoint(.host(framing))
        let start = Instant(nanoseconds: 0)
        switch state {
        case "none": break
        case "asking": endpoint.askForUnboundPorts()
        case "connecting":
            let address = VsockAddress(cid: 3, port: 0x10000)
            _ = try endpoint.connect(peer.type, to: address, from: 1234, now: start)
        case "requested":
            endpoint.askForUnboundPorts()
            endpoint.receive(peer.packet(.request))
        default:
            try endpoint.listen(peer.type, port: 1234, backlog: 10)
            guard state != "listening", case .accepted(let id) = endpoint.receive(peer.packet(.request)) else { break }
            _ = endpoint.allControlPackets()
            if state == "closing" { endpoint.close(id, now: start) }
            if state == "resetting" { endpoint.abort(id) }
        }
        if state != "resetting" { _ = endpoint.allControlPackets() }
        return endpoint
    }

    static func packet(_ operation: String, _ peer: PacketBuilder) -> PacketHeader {
        if operation.hasPrefix("SHUTDOWN") { return peer.packet(.shutdown, flags: UInt32(operation.dropFirst(8)) ?? 0) }
        let value = CodePoints.operations[operation] ?? 10
        let carriesMarker = value == 8 || value == 9
        let length: UInt32 = carriesMarker ? 8 : value == 5 ? 10 : 0
        return peer.packet(Operation(rawValue: value), payloadByteCount: length)
    }

    enum CodePoints {
        static let operations: [String: UInt16] = [
            "INVALID": 0, "REQUEST": 1, "RESPONSE": 2, "RST": 3, "RW": 5, "CREDIT_UPDATE": 6, "CREDIT_REQUEST": 7,
            "SEQ_BEGIN": 8, "SEQ_END": 9,
        ]
    }

    static func describe(_ reception: Reception) -> String {
        switch reception {
        case .handled: "handled"
        case .dropped(let reason): "dropped \(reason)"
        case .requested: "requested"
        case .accepted: "accepted"
        case .connected: "connected"
        case .connectFailed(_, let error): "connectFailed \(error.name)"
        case .payload: "payload"
        case .peerShutdown(_, let flags): "peerShutdown \(flags.rawValue)"
        case .reset(_, let cause): "reset \(cause)"
        }
    }

    static func play(_ row: TransitionTable.Row, _ type: SocketType, _ framing: RecordFraming) throws {
        let peer = PacketBuilder(type: type)
        var endpoint = try endpoint(row.before, peer, framing)
        let marker = SequenceHeader(messageCount: 0, messageByteCount: 5)
        let reception = endpoint.receive(packet(row.operation, peer), marker: marker)
        #expect(describe(reception) == row.reception, "\(row)")
        let after = endpoint.connections.count > 0 ? "\(endpoint.connections[0].state)" : "-"
        #expect(after == row.after, "\(row)")
        let owed = endpoint.allControlPackets()
        let names = owed.map(\.operation.description).joined(separator: " ")
        #expect(names == (row.owed == "-" ? "" : row.owed), "\(row)")
        for reply in owed {
            #expect(reply.type == type && reply.payloadByteCount == 0, "\(row)")
            #expect(reply.sourceCID == 2 && reply.destinationCID == 3, "\(row)")
            #expect(reply.sourcePort == 1234 && reply.destinationPort == 0x10000, "\(row)")
        }
        let isAlive = ["connecting", "requested", "established", "closing"].contains(row.after)
        #expect(endpoint.connectionCount == (isAlive ? 1 : 0), "\(row)")
    }

    @Test("of a stream", arguments: [RecordFraming.standard, .none])
    func stream(framing: RecordFraming) throws {
        for row in TransitionTable.rows(TransitionTable.stream) { try Self.play(row, .stream, framing) }
    }

    @Test("of a stream on a device with the rfc-v5 framing: record markers are no more welcome there")
    func streamBesideRFCv5() throws {
        for row in TransitionTable.rows(TransitionTable.stream) { try Self.play(row, .stream, .rfcV5) }
    }

    @Test("of seqpacket: as of a stream, but for payload", arguments: [RecordFraming.standard, .rfcV5])
    func seqpacket(framing: RecordFraming) throws {
        let text = framing == .standard ? TransitionTable.standardSeqpacket : TransitionTable.rfcV5Seqpacket
        let differences = TransitionTable.rows(text)
        for row in TransitionTable.rows(TransitionTable.stream) {
            let difference = differences.first { $0.before == row.before && $0.operation == row.operation }
            try Self.play(difference ?? row, .seqpacket, framing)
        }
    }

    @Test("has every state with every operation exactly once")
    func isComplete() {
        let rows = TransitionTable.rows(TransitionTable.stream)
        #expect(rows.count == Self.states.count * Self.operations.count)
        for state in Self.states {
            for operation in Self.operations {
                let matches = rows.filter { $0.before == state && $0.operation == operation }
                #expect(matches.count == 1, "\(state) | \(operation)")
            }
        }
    }

    @Test("does not apply to packets of the other type: they are reset with their own type and change nothing")
    func otherTypeChangesNothing() throws {
        for state in ["connecting", "requested", "established", "closing", "resetting"] {
            for operation in Self.operations {
                let peer = PacketBuilder(type: .stream)
                var endpoint = try Self.endpoint(state, peer, .standard)
                var foreign = PacketBuilder(type: .seqpacket)
                foreign.bufferAllocation = 77
                let before = endpoint.connections[0].credit
                let reception = endpoint.receive(Self.packet(operation, foreign))
                #expect(reception == .dropped(.wrongType), "\(state) | \(operation)")
                #expect("\(endpoint.connections[0].state)" == state, "\(state) | \(operation)")
                #expect(endpoint.connections[0].credit == before, "\(state) | \(operation)")
                let foreignResets = endpoint.allControlPackets().filter { $0.type == .seqpacket }
                #expect(foreignResets.count == (operation == "RST" ? 0 : 1), "\(state) | \(operation)")
                #expect(foreignResets.allSatisfy { $0.operation == .reset && $0.bufferAllocation == 0 })
            }
        }
    }
}
