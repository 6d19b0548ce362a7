// SPDX-License-Identifier: Apache-2.0
//
// Guests of one daemon that share a group, each with connections, credit, packet sizes and a framing of its own.

import Testing
import VsockCore
import VsockSystem
import VsockTestSupport
import VsockWire

@testable import VsockTransport

/// The framings of two guests.
struct FramingPair: Sendable, CustomTestStringConvertible {
    let first: RecordFraming
    let second: RecordFraming
    var testDescription: String { "\(first) to \(second)" }

    static let all = [RecordFraming.standard, .rfcV5].flatMap { first in
        [RecordFraming.standard, .rfcV5].map { FramingPair(first: first, second: $0) }
    }
}

@Suite("Siblings")
struct SiblingTests {
    @Test("a stream between two guests, on one thread and on two, either of them asking", arguments: [1, 2])
    func stream(workerLimit: Int) throws {
        let daemon = try SiblingDaemon([["default"], ["default"]], workerLimit: workerLimit)
        let guests = [try daemon.guest(3), try daemon.guest(4)]
        for (client, server) in [(guests[0], guests[1]), (guests[1], guests[0])] {
            try server.sockets.listen(.stream, port: 7)
            let echo = try server.serve { socket in
                let bytes = try socket.receive(exactly: 1 << 20)
                try socket.send(bytes)
                #expect(try socket.receive() == nil)
                socket.close()
                try server.waitForEnds()
            }
            let socket = try client.connect(.stream, to: server)
            let bytes = pattern(1 << 20)
            try socket.send(bytes)
            #expect(try socket.receive(exactly: bytes.count) == bytes)
            socket.close()
            try client.waitForEnds()
            try echo.value()
        }
    }

    @Test(
        "a record is one record on the other side, with its MSG_EOR, whatever the framings", arguments: FramingPair.all)
    func records(framings: FramingPair) throws {
        let daemon = try SiblingDaemon([["a", "b"], ["b", "c"]])
        let client = try daemon.guest(3, framings.first)
        let server = try daemon.guest(4, framings.second)
        let sizes = [1, 2, 3776, 3777, 65_536, 65_537, 200_000, 262_144, 7]
        try server.sockets.listen(.seqpacket, port: 7)
        let receiver = try server.serve { socket in
            for (index, size) in sizes.enumerated() {
                let record = try socket.receiveRecord()
                #expect(record?.bytes == pattern(size, seed: index))
                #expect(record?.endOfRecord == (index % 2 == 1))
            }
            #expect(try socket.receive() == nil)
        }
        let socket = try client.connect(.seqpacket, to: server)
        for (index, size) in sizes.enumerated() {
            try socket.send(pattern(size, seed: index), endOfRecord: index % 2 == 1)
        }
        socket.close()
        try receiver.value()
    }

    @Test("an empty record crosses where both framings have one, and is left out where the other has none")
    func emptyRecords() throws {
        let daemon = try SiblingDaemon([["g"], ["g"], ["g"]])
        let sender = try daemon.guest(3, .rfcV5)
        for (cid, framing, expected) in [
            (UInt32(4), RecordFraming.rfcV5, [[], [1], []]), (5, .standard, [[1]]),
        ] as [(UInt32, RecordFraming, [[UInt8]])] {
            let server = try daemon.guest(cid, framing)
            try server.sockets.listen(.seqpacket, port: 7)
            let receiver = try server.serve { try $0.receiveRecordsToEnd() }
            let socket = try sender.connect(.seqpacket, to: server)
            for record in [[], [1], []] as [[UInt8]] { try socket.send(record) }
            socket.close()
            #expect(try receiver.value() == expected)
        }
    }

    @Test("a record that flows through the buffer reaches a sibling of the same framing whole")
    func largeRecord() throws {
        let daemon = try SiblingDaemon([["g"], ["g"]])
        let client = try daemon.guest(3, .rfcV5)
        let server = try daemon.guest(4, .rfcV5)
        try server.sockets.listen(.seqpacket, port: 7)
        let receiver = try server.serve { try $0.receiveRecordsToEnd() }
        let socket = try client.connect(.seqpacket, to: server)
        for seed in 0..<4 { try socket.send(pattern(1 << 20, seed: seed)) }
        socket.close()
        #expect(try receiver.value() == (0..<4).map { pattern(1 << 20, seed: $0) })
    }

    @Test("a record that the sibling cannot hold: EMSGSIZE where the framing knows, a reset where it does not")
    func oversizedRecord() throws {
        let daemon = try SiblingDaemon([["g"], ["g"], ["g"]])
        let server = try daemon.guest(3)
        try server.sockets.listen(.seqpacket, port: 7)
        let record = pattern(262_145)
        let knowing = try daemon.guest(4)
        let first = try knowing.connect(.seqpacket, to: server)
        #expect(throws: SocketError.messageTooLong) { try first.send(record) }
        let unknowing = try daemon.guest(5, .rfcV5)
        let second = try unknowing.connect(.seqpacket, to: server)
        try second.send(record)
        try eventually { second.peerShutdown == .both }
        #expect(daemon.log.contains("connection between guests reset", "262145 bytes", "EMSGSIZE"))
    }

    @Test("a sibling that makes its buffer smaller is the limit of records from then on")
    func shrunkBuffer() throws {
        let daemon = try SiblingDaemon([["g"], ["g"]])
        let client = try daemon.guest(3)
        let server = try daemon.guest(4)
        try server.sockets.listen(.seqpacket, port: 7)
        let socket = try client.connect(.seqpacket, to: server)
        let accepted = try server.sockets.accept(port: 7)
        try accepted.set(.bufferSize(10_000))
        let table = client.sockets.driver.carrier.table
        try eventually {
            table.lock.withLock {
                let connections = table.endpoint.connectionIDs.compactMap { table.endpoint.snapshot($0) }
                return connections.map(\.credit.peerBufferAllocation) == [10_000]
            }
        }
        #expect(throws: SocketError.messageTooLong) { try socket.send(pattern(10_001)) }
        try socket.send(pattern(10_000))
        #expect(try accepted.receive() == pattern(10_000))
    }

    @Test("random sizes, both types, all framings: what one guest sends is what the other receives", arguments: [1, 2])
    func random(workerLimit: Int) throws {
        let seed = UInt64.random(in: 0...UInt64.max)
        print("seed \(seed)")
        var random = PRNG(seed: seed)
        for framings in FramingPair.all {
            let daemon = try SiblingDaemon([["g"], ["g"]], workerLimit: workerLimit)
            let client = try daemon.guest(3, framings.first)
            let server = try daemon.guest(4, framings.second)
            for type in [SocketType.stream, .seqpacket] {
                let sizes = (0..<200).map { _ in
                    random.chance(percent: 80) ? random.within(1...5000) : random.within(1...262_144)
                }
                try server.sockets.listen(type, port: 7 + UInt32(type.rawValue))
                let receiver = try server.serve(port: 7 + UInt32(type.rawValue)) { socket in
                    for (index, size) in sizes.enumerated() where type == .seqpacket {
                        guard try socket.receive() == pattern(size, seed: index) else { return false }
                    }
                    return try socket.receiveToEnd()
                        == (type == .seqpacket ? [] : flat(sizes.enumerated().map { pattern($1, seed: $0) }))
                }
                let socket = try client.connect(type, to: server, port: 7 + UInt32(type.rawValue))
                for (index, size) in sizes.enumerated() {
                    try socket.send(pattern(size, seed: index))
                }
                socket.close()
                #expect(try receiver.value(), "seed \(seed), \(framings.testDescription), \(type)")
            }
        }
    }
}
