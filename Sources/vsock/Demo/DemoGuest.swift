// SPDX-License-Identifier: Apache-2.0
//
// What the guest does in the demonstration, over whatever sockets it has.

import VsockTransport
import VsockWire

/// What crosses in the demonstration, known to both sides.
enum DemoTraffic {
    static let recordPort: UInt32 = 1001
    static let streamPort: UInt32 = 1002
    static let guestPort: UInt32 = 1003
    static let streamByteCount = 8 << 20
    static let timeoutNanoseconds: UInt64 = 10_000_000_000
    /// Bytes of a buffer that takes any of the records.
    static let capacity = 512 * 1024

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
struct DemoGuest {
    /// The kernel's sockets in a Linux guest, the driver's in the package's own.
    let makeSocket: (SocketType) throws -> any ConnectibleSocket

    func run() throws {
        let listener = try makeSocket(.seqpacket)
        defer { listener.close() }
        try listener.set(.receiveTimeout(.nanoseconds(DemoTraffic.timeoutNanoseconds)))
        try listener.bind(to: VsockAddress(cid: .any, port: .init(rawValue: DemoTraffic.guestPort)))
        try listener.listen(backlog: 8)
        try exchangeRecords()
        try exchangeStream()
        try serveHost(listener)
    }

    private func exchangeRecords() throws {
        let socket = try connect(.seqpacket, port: DemoTraffic.recordPort)
        defer { socket.close() }
        for record in DemoTraffic.records { try socket.sendAll(record) }
        for expected in DemoTraffic.records {
            guard let record = try socket.next(), record == expected else {
                throw Failure("a record came back changed")
            }
            Console.say("guest: record from the host: \(DemoTraffic.describe(record))")
        }
    }

    private func exchangeStream() throws {
        let socket = try connect(.stream, port: DemoTraffic.streamPort)
        defer { socket.close() }
        let sent = DemoTraffic.pattern(DemoTraffic.streamByteCount, seed: 3)
        var received: [UInt8] = []
        var offset = 0
        // The host echoes as it reads: take what has come back before sending more, or both sides fill up.
        while offset < sent.count {
            let end = min(offset + 128 * 1024, sent.count)
            try socket.sendAll(sent[offset..<end])
            offset = end
            while received.count < offset, let bytes = try socket.next() { received += bytes }
        }
        try socket.shutdown(.send)
        while let bytes = try socket.next() { received += bytes }
        guard received == sent else { throw Failure("the stream came back changed") }
        Console.say("guest: stream: \(sent.count) bytes there and back, equal")
    }

    private func serveHost(_ listener: any ConnectibleSocket) throws {
        let socket = try listener.accept()
        defer { socket.close() }
        while let record = try socket.next() {
            Console.say("guest: record on a connection of the host: \(DemoTraffic.describe(record))")
            try socket.sendAll(record)
        }
    }

    private func connect(_ type: SocketType, port: UInt32) throws -> any ConnectibleSocket {
        let socket = try makeSocket(type)
        try socket.connect(to: VsockAddress(cid: .host, port: VsockAddress.Port(rawValue: port)))
        return socket
    }
}

extension ConnectibleSocket {
    /// Sends all bytes; one record on a seqpacket socket.
    fileprivate func sendAll(_ bytes: some Collection<UInt8>) throws {
        let bytes = Array(bytes)
        let options = SendOptions(timeoutNanoseconds: DemoTraffic.timeoutNanoseconds)
        let count = try bytes.withUnsafeBytes { try send($0, options) }
        guard count == bytes.count else { throw Failure("the host does not read") }
    }

    /// Some bytes of a stream, or one record; nil at the end.
    fileprivate func next() throws -> [UInt8]? {
        let options = ReceiveOptions(timeoutNanoseconds: DemoTraffic.timeoutNanoseconds)
        var result = ReceiveResult()
        let bytes = try [UInt8](unsafeUninitializedCapacity: DemoTraffic.capacity) { buffer, count in
            result = try receive(into: UnsafeMutableRawBufferPointer(buffer), options)
            count = result.count
        }
        return result.isEnd ? nil : bytes
    }
}
