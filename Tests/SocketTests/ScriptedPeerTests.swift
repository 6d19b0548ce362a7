// SPDX-License-Identifier: Apache-2.0
//
// A peer that drops, repeats, reorders and corrupts the packets of records in the framing of RFC v5: what a program
// gets to see of it, that every byte is credited, and that the next good record arrives.

import Testing
import Vsock
import VsockTestSupport
import VsockWire

// One after another: each has a device and a driver, whose descriptors add up.
@Suite("A peer that goes wrong", .serialized, .timeLimit(.minutes(10)))
struct ScriptedPeerTests {
    /// Behind every fault, without MSG_EOR.
    private static let goodRecord: [ScriptedPacket] = [.begin(100, 4), .data("go"), .data("od"), .end(101)]

    private func receive(_ socket: VsockSocket) async throws -> PeerFault.Record {
        var buffer = [UInt8](repeating: 0, count: 64)
        let result = try await socket.receive(
            into: &buffer, options: ReceiveOptions(timeoutNanoseconds: testDeadline))
        #expect(!result.truncated && !result.isEnd && result.fullLength == result.count)
        return PeerFault.Record(
            String(decoding: buffer[..<result.count], as: UTF8.self), endOfRecord: result.endOfRecord)
    }

    @Test(
        "the program sees whole records only, every byte is credited, and the next good record arrives",
        arguments: PeerFault.all)
    func fault(fault: PeerFault) async throws {
        let guest = try await ScriptedGuest()
        try guest.send(fault.packets)
        try guest.send(Self.goodRecord)
        for record in fault.records { #expect(try await receive(guest.socket) == record) }
        #expect(try await receive(guest.socket) == "good")
        let packets = try await guest.packetsUntilCredited()
        #expect(packets.map(\.operation) == fault.resets.map { _ in .reset })
        #expect(packets.map(\.type) == fault.resets)
        #expect(packets.allSatisfy { $0.bufferAllocation == 0 && $0.forwardedCount == 0 })
        #expect(guest.socket.unreadByteCount == 0 && guest.socket.readiness == .writable)
    }

    @Test("every fault on one connection, one after another, with a reader that waits")
    func all() async throws {
        let guest = try await ScriptedGuest()
        let socket = guest.socket
        let expected: [PeerFault.Record] = PeerFault.all.flatMap { $0.records + [PeerFault.Record("good")] }
        async let records = {
            var records: [PeerFault.Record] = []
            while records.count < expected.count { records.append(try await receive(socket)) }
            return records
        }()
        for fault in PeerFault.all {
            try guest.send(fault.packets)
            try guest.send(Self.goodRecord)
            _ = try await guest.packetsUntilCredited()
        }
        #expect(try await records == expected)
    }

    @Test("a record that has come in part: not readable, EAGAIN, and nothing of it is lost by asking")
    func partialRecord() async throws {
        let guest = try await ScriptedGuest()
        var buffer = [UInt8](repeating: 0, count: 16)
        let attempts = [
            ReceiveOptions(doesNotWait: true), ReceiveOptions(peeks: true, doesNotWait: true),
            ReceiveOptions(timeoutNanoseconds: 1_000_000),
        ]
        for packet in [.begin(0, 4), .data("ab"), .data("cd")] as [ScriptedPacket] {
            try guest.send([packet])
            for options in attempts {
                await #expect(throws: SocketError.wouldBlock) {
                    _ = try await guest.socket.receive(into: &buffer, options: options)
                }
            }
            #expect(guest.socket.readiness == .writable)
        }
        try guest.send([.end(1)])
        #expect(try await guest.socket.ready(.readable) == .readable)
        for _ in 0..<2 {
            let result = try await guest.socket.receive(into: &buffer, options: ReceiveOptions(peeks: true))
            #expect(result == ReceiveResult(count: 4, fullLength: 4))
        }
        // An empty buffer takes nothing.
        var none: [UInt8] = []
        #expect(try await guest.socket.receive(into: &none) == ReceiveResult())
        #expect(try await receive(guest.socket) == "abcd")
        #expect(try await guest.packetsUntilCredited().isEmpty)
    }

    @Test("a record that is void after a reader has taken a part of it: the reader gets the next one alone")
    func voidAfterDrain() async throws {
        let guest = try await ScriptedGuest()
        let socket = guest.socket
        async let record = receive(socket)
        let text = String(repeating: "x", count: 65_536)
        try guest.send([.begin(0, 1 << 20), .data(text), .data(text), .data(text)])
        // The peer's view of the buffer would be full: the reader has taken some.
        try await guest.waitForCredit(of: 131_072)
        try guest.send(Self.goodRecord)
        #expect(try await record == "good")
        #expect(try await guest.packetsUntilCredited().isEmpty)
    }

    /// How a peer leaves.
    enum Departure: CaseIterable, Sendable {
        case shutdown, reset
    }

    @Test("a peer that leaves: whole records are read, a part of one never is", arguments: Departure.allCases)
    func departure(how: Departure) async throws {
        let guest = try await ScriptedGuest()
        try guest.send([.begin(0, 1), .data("a"), .end(1), .begin(2, 2), .data("b")])
        try guest.send([how == .reset ? .other(.reset) : .other(.shutdown, flags: 3)])
        #expect(try await receive(guest.socket) == "a")
        var buffer = [UInt8](repeating: 0, count: 16)
        for _ in 0..<2 { #expect(try await guest.socket.receive(into: &buffer) == ReceiveResult(isEnd: true)) }
        await #expect(throws: SocketError.brokenPipe) { try await guest.socket.send([1]) }
    }

    @Test("a peer that exceeds its credit is reset: what came before it can be read, then the error")
    func creditExceeded() async throws {
        let guest = try await ScriptedGuest()
        try guest.send([.begin(0, 1), .data("a"), .end(1), .begin(2, .max)])
        let text = String(repeating: "x", count: 65_536)
        try guest.send([.data(text), .data(text), .data(text), .data(text)])
        // Whoever reads meanwhile makes room.
        try await guest.waitForReset()
        #expect(try await receive(guest.socket) == "a")
        await #expect(throws: SocketError.connectionReset) { _ = try await receive(guest.socket) }
    }
}
