// SPDX-License-Identifier: Apache-2.0
//
// What the host's program does in the demonstration: plain Unix sockets, nothing of this package's.

import VsockSystem
import VsockTransport

/// The host's part; the listeners exist from the start, so that a guest can connect as soon as it runs.
struct DemoHost {
    private let path: String
    private let records: [[UInt8]]
    private let recordListener: UnixListener
    private let streamListener: UnixListener

    init(path: String, records: [[UInt8]]) throws {
        self.path = path
        self.records = records
        recordListener = try UnixListener(UnixAddress("\(path)_\(DemoTraffic.recordPort)"), type: .seqpacket)
        streamListener = try UnixListener(UnixAddress("\(path)_\(DemoTraffic.streamPort)"), type: .stream)
    }

    func run() throws {
        try echoRecords()
        try echoStream()
        try askGuest()
    }

    private func echoRecords() throws {
        let socket = try accept(recordListener)
        try SocketOptions.setSendBuffer(socket.rawValue, byteCount: 1 << 20)
        while let record = try receive(socket.rawValue) {
            Console.say("host:   record from the guest: \(DemoTraffic.describe(record))")
            try send(record, socket.rawValue)
        }
    }

    private func echoStream() throws {
        let socket = try accept(streamListener)
        var byteCount = 0
        while let bytes = try receive(socket.rawValue) {
            byteCount += bytes.count
            try send(bytes, socket.rawValue)
        }
        Console.say("host:   stream from the guest: \(byteCount) bytes, echoed")
    }

    /// Connects to the guest as any host program does.
    private func askGuest() throws {
        let socket = try UnixSocket.connect(
            to: UnixAddress(path + "_seqpacket"), type: .seqpacket, nonBlocking: true)
        try SocketOptions.setSendBuffer(socket.rawValue, byteCount: 1 << 20)
        try send(Array("CONNECT \(DemoTraffic.guestPort)\n".utf8), socket.rawValue)
        guard let answer = try receive(socket.rawValue), answer.starts(with: "OK ".utf8) else {
            throw Failure("the guest does not listen on port \(DemoTraffic.guestPort)")
        }
        for record in records {
            try send(record, socket.rawValue)
            guard try receive(socket.rawValue) == record else { throw Failure("the guest's echo differs") }
        }
        Console.say("host:   \(records.count) records to a port of the guest and back, equal")
    }

    // MARK: Sockets with a deadline

    private func accept(_ listener: UnixListener) throws -> OwnedFileDescriptor {
        try wait(listener.rawDescriptor, .readable)
        guard let descriptor = try listener.accept() else { throw Failure("the guest did not connect") }
        return descriptor
    }

    private func receive(_ descriptor: Int32) throws -> [UInt8]? {
        try wait(descriptor, .readable)
        var end: [UInt8]?
        try withUnsafeTemporaryAllocation(byteCount: DemoTraffic.capacity, alignment: 16) { buffer in
            switch DescriptorIO.receive(descriptor, into: buffer) {
            case .count(0), .failed(.connectionReset): end = nil
            case .count(let count): end = Array(buffer[..<count])
            case .wouldBlock, .failed: throw Failure("the host's socket failed")
            }
        }
        return end
    }

    private func send(_ bytes: [UInt8], _ descriptor: Int32) throws {
        var rest = bytes[...]
        while !rest.isEmpty {
            switch rest.withUnsafeBytes({ DescriptorIO.send(descriptor, from: $0) }) {
            case .count(let count): rest = rest.dropFirst(count)
            case .wouldBlock: try wait(descriptor, .writable)
            case .failed(let errno): throw Failure("the host cannot send: \(errno)")
            }
        }
    }

    private func wait(_ descriptor: Int32, _ events: PollEvents) throws {
        let ready = try DescriptorIO.waitUntilReady(
            descriptor, for: events, timeoutNanoseconds: 6 * DemoTraffic.timeoutNanoseconds)
        guard !ready.isEmpty else { throw Failure("nothing came from the guest in time") }
    }
}
