// SPDX-License-Identifier: Apache-2.0
//
// What the guest does in the demonstration, over whatever sockets it has.

import VsockTransport
import VsockWire

/// The guest's part.
struct DemoGuest {
    let records: [[UInt8]]
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
        for record in records {
            try socket.sendAll(record)
            guard try socket.next() == record else { throw Failure("a record came back changed") }
            Console.say("guest:  record from the host: \(DemoTraffic.describe(record))")
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
        Console.say("guest:  stream: \(sent.count) bytes there and back, equal")
    }

    private func serveHost(_ listener: any ConnectibleSocket) throws {
        let socket = try listener.accept()
        defer { socket.close() }
        while let record = try socket.next() { try socket.sendAll(record) }
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
