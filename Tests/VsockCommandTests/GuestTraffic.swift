// SPDX-License-Identifier: Apache-2.0
//
// A guest under load: a stream each way, every byte of which is looked at.

import Glibc
import Synchronization
import Testing
import VsockCore
import VsockSystem
import VsockTestSupport
import VsockTransport
import VsockWire

/// Traffic of one guest of a daemon, until it is stopped.
final class GuestTraffic: Sendable {
    private static let port: UInt32 = 5000
    private static let blockByteCount = 1 << 16
    /// What a load of so many bytes a second may be late by, and catch up on.
    private static let latenessNanoseconds: UInt64 = 10_000_000

    private let guest: SocketDriver
    private let counts: Counts
    private let parts: [Background<Int>]

    private final class Counts: Sendable {
        let mustStop = Atomic(false)
        let received = Atomic(0)
    }

    /// Makes `bytes` a block of the stream, which says where it is. By libc, here and in ``receive``: a loop in a debug
    /// build costs more than all that a device does with the bytes.
    private static func fill(_ bytes: inout [UInt8], _ number: Int) {
        bytes.withUnsafeMutableBytes {
            if let start = $0.baseAddress { memset(start, Int32(number & 0xff), $0.count) }
            $0.storeBytes(of: number, as: Int.self)
        }
    }

    /// Starts to send both ways between the guest of the device at `path` and the host: each way so much, or all that
    /// goes.
    init(path: String, hybridPath: String, bytesPerSecond: Int? = nil) throws {
        let guest = try SocketDriver(path: path)
        self.guest = guest
        let listener = try UnixListener(UnixAddress("\(hybridPath)_\(Self.port)"), type: .stream)
        func connect() throws -> (any ConnectibleSocket, SharedFileDescriptor) {
            let socket = guest.makeSocket(.stream)
            try socket.set(.receiveTimeout(.nanoseconds(testDeadline)))
            try socket.connect(to: VsockAddress(cid: .host, port: VsockAddress.Port(rawValue: Self.port)))
            try waitUntil(listener.rawDescriptor, .readable)
            guard let host = try listener.accept() else { throw Deadline() }
            return (socket, SharedFileDescriptor(host))
        }
        let (sender, receivingHost) = try connect()
        let (receiver, sendingHost) = try connect()
        let counts = Counts()
        self.counts = counts
        parts = [
            try Background {
                try Self.send(counts, bytesPerSecond) { bytes in
                    var offset = 0
                    while offset < bytes.count {
                        let options = SendOptions(timeoutNanoseconds: testDeadline)
                        offset += try bytes[offset...].withUnsafeBytes { try sender.send($0, options) }
                    }
                } end: {
                    try sender.shutdown(.send)
                }
            },
            try Background {
                try Self.receive(counts) { buffer in
                    while true {
                        switch DescriptorIO.read(receivingHost.rawValue, into: buffer) {
                        case .count(let count): return count
                        case .failed(let errno): throw errno
                        case .wouldBlock: try waitUntil(receivingHost.rawValue, .readable)
                        }
                    }
                }
            },
            try Background {
                try Self.send(counts, bytesPerSecond) {
                    try writeAll(sendingHost.rawValue, $0)
                } end: {
                    try SocketOptions.shutdown(sendingHost.rawValue, .send)
                }
            },
            try Background { try Self.receive(counts) { try receiver.receive(into: $0).count } },
        ]
    }

    /// Bytes that have arrived, both ways.
    var receivedByteCount: Int { counts.received.load(ordering: .relaxed) }

    /// Ends the streams; true when every byte that was sent has arrived, in order.
    func finish() throws -> Bool {
        counts.mustStop.store(true, ordering: .relaxed)
        let byteCounts = try parts.map { try $0.value() }
        guest.stop()
        return byteCounts[0] == byteCounts[1] && byteCounts[2] == byteCounts[3]
    }

    private static func send(
        _ counts: Counts, _ bytesPerSecond: Int?, _ send: ([UInt8]) throws -> Void, end: () throws -> Void
    ) throws -> Int {
        var block = [UInt8](repeating: 0, count: blockByteCount)
        var number = 0
        let pause = try Pause()
        let blockNanoseconds = bytesPerSecond.map { UInt64(blockByteCount) * 1_000_000_000 / UInt64($0) } ?? 0
        var due = MonotonicClock.now()
        while !counts.mustStop.load(ordering: .relaxed) {
            if blockNanoseconds > 0 {
                try pause.end(at: due)
                // What could not be sent in time is not made up for, but for what the clock of the kernel is late by.
                due = max(due, MonotonicClock.now() - latenessNanoseconds) + blockNanoseconds
            }
            fill(&block, number)
            try send(block)
            number += 1
        }
        try end()
        return number * blockByteCount
    }

    /// Receives to the end; throws for a byte that is not the one that was sent.
    private static func receive(
        _ counts: Counts, _ receive: (UnsafeMutableRawBufferPointer) throws -> Int
    ) throws -> Int {
        var buffer = [UInt8](repeating: 0, count: blockByteCount)
        var block = buffer
        var filled = 0
        var number = 0
        while true {
            let count = try buffer.withUnsafeMutableBytes {
                try receive(UnsafeMutableRawBufferPointer(rebasing: $0[filled...]))
            }
            if count == 0 { return number * blockByteCount + filled }
            counts.received.add(count, ordering: .relaxed)
            filled += count
            guard filled == blockByteCount else { continue }
            fill(&block, number)
            guard memcmp(buffer, block, blockByteCount) == 0 else { throw ByteLost(block: number) }
            number += 1
            filled = 0
        }
    }
}

/// A stream has other bytes than were sent.
struct ByteLost: Error {
    let block: Int
}
