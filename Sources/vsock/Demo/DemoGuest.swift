// SPDX-License-Identifier: Apache-2.0
//
// What the guest does in the demonstration, over whatever sockets it has.

import VsockSystem
import VsockWire

/// The sockets of a guest: the kernel's in a Linux guest, the driver's in the package's own.
protocol DemoGuestSockets {
    associatedtype Socket

    func listen(_ type: SocketType, port: UInt32) throws
    func accept(port: UInt32) throws -> Socket
    func connect(_ type: SocketType, port: UInt32) throws -> Socket
    /// Sends all bytes; one record on a seqpacket socket.
    func send(_ bytes: [UInt8], to socket: Socket) throws
    /// Some bytes of a stream, or one record; nil at the end.
    func receive(_ socket: Socket) throws -> [UInt8]?
    func finishSending(_ socket: Socket) throws
    func close(_ socket: Socket) throws
}

/// What crosses in the demonstration, known to both sides.
enum DemoTraffic {
    static let recordPort: UInt32 = 1001
    static let streamPort: UInt32 = 1002
    static let guestPort: UInt32 = 1003
    static let streamByteCount = 8 << 20
    static let timeoutNanoseconds: UInt64 = 10_000_000_000

    /// Records of very different sizes, the last as large as a connection's buffer.
    static let records: [[UInt8]] = [
        Array("a record".utf8), Array("and another: boundaries are kept".utf8), pattern(64 * 1024, seed: 1),
        pattern(256 * 1024, seed: 2),
    ]

    /// Bytes that differ from place to place.
    static func pattern(_ count: Int, seed: UInt64) -> [UInt8] {
        var state = seed &* 0x9e37_79b9_7f4a_7c15 | 1
        return (0..<count).map { _ in
            state ^= state << 13
            state ^= state >> 7
            state ^= state << 17
            return UInt8(truncatingIfNeeded: state >> 32)
        }
    }

    /// A record in words: short ones in full.
    static func describe(_ record: [UInt8]) -> String {
        record.count < 64 ? "\"\(String(decoding: record, as: UTF8.self))\"" : "\(record.count) bytes"
    }
}

/// The guest's part.
struct DemoGuest<Sockets: DemoGuestSockets> {
    let sockets: Sockets
    let name: String

    func run() throws {
        try sockets.listen(.seqpacket, port: DemoTraffic.guestPort)
        try exchangeRecords()
        try exchangeStream()
        try serveHost()
    }

    private func exchangeRecords() throws {
        let socket = try sockets.connect(.seqpacket, port: DemoTraffic.recordPort)
        for record in DemoTraffic.records { try sockets.send(record, to: socket) }
        for expected in DemoTraffic.records {
            guard let record = try sockets.receive(socket), record == expected else {
                throw Failure("a record came back changed")
            }
            Console.say("\(name): record from the host: \(DemoTraffic.describe(record))")
        }
        try sockets.close(socket)
    }

    private func exchangeStream() throws {
        let socket = try sockets.connect(.stream, port: DemoTraffic.streamPort)
        let sent = DemoTraffic.pattern(DemoTraffic.streamByteCount, seed: 3)
        var received: [UInt8] = []
        var offset = 0
        // The host echoes as it reads: take what has come back before sending more, or both sides fill up.
        while offset < sent.count {
            let end = min(offset + 128 * 1024, sent.count)
            try sockets.send(Array(sent[offset..<end]), to: socket)
            offset = end
            while received.count < offset, let bytes = try sockets.receive(socket) { received += bytes }
        }
        try sockets.finishSending(socket)
        while let bytes = try sockets.receive(socket) { received += bytes }
        guard received == sent else { throw Failure("the stream came back changed") }
        Console.say("\(name): stream: \(sent.count) bytes there and back, equal")
        try sockets.close(socket)
    }

    private func serveHost() throws {
        let socket = try sockets.accept(port: DemoTraffic.guestPort)
        while let record = try sockets.receive(socket) {
            Console.say("\(name): record on a connection of the host: \(DemoTraffic.describe(record))")
            try sockets.send(record, to: socket)
        }
        try sockets.close(socket)
    }
}
