// SPDX-License-Identifier: Apache-2.0
//
// A program on the host: a plain Unix socket, with a deadline for whatever it waits for.

import VsockSystem
import VsockTestSupport

/// One connected Unix socket. Belongs to one thread at a time.
final class HostProgram: @unchecked Sendable {
    // Unchecked: a test hands it from one thread to the next, never to two.

    private var descriptor: SharedFileDescriptor?
    let type: UnixSocketType
    /// Bytes that the socket has taken.
    private(set) var bytesSent = 0

    init(_ descriptor: consuming OwnedFileDescriptor, type: UnixSocketType) {
        self.descriptor = SharedFileDescriptor(descriptor)
        self.type = type
    }

    convenience init(connectingTo path: String, type: UnixSocketType) throws {
        self.init(try UnixSocket.connect(to: UnixAddress(path), type: type, nonBlocking: true), type: type)
    }

    var rawDescriptor: Int32 { descriptor?.rawValue ?? -1 }

    /// Closes the socket, whatever is in it.
    func close() { descriptor = nil }

    func shutdown(_ direction: SocketOptions.Direction) throws {
        try SocketOptions.shutdown(rawDescriptor, direction)
    }

    /// Sends all bytes, as one record on a seqpacket socket.
    func send(_ bytes: [UInt8]) throws {
        var offset = 0
        repeat {
            switch send(bytes[offset...]) {
            case .count(let count): offset += count
            case .wouldBlock: try wait(.writable)
            case .failed(let errno): throw errno
            }
        } while offset < bytes.count
    }

    func send(_ text: String) throws { try send(Array(text.utf8)) }

    /// One attempt.
    func send(_ bytes: ArraySlice<UInt8>) -> IOResult {
        let result = bytes.withUnsafeBytes { DescriptorIO.send(rawDescriptor, from: $0) }
        if case .count(let count) = result { bytesSent += count }
        return result
    }

    /// Sends one byte after another until the socket takes no more; their number.
    func fill(limit: Int) throws -> Int {
        let chunk = [UInt8](repeating: 0x5a, count: 4096)
        var total = 0
        while total < limit {
            switch send(chunk[...]) {
            case .count(let count): total += count
            case .wouldBlock: return total
            case .failed(let errno): throw errno
            }
        }
        return total
    }

    /// The next bytes or the next record; nil at end of file.
    func receive(upTo capacity: Int = 1 << 20) throws -> [UInt8]? {
        while true {
            switch tryReceive(upTo: capacity) {
            case .bytes(let bytes): return bytes
            case .end: return nil
            case .nothing: try wait(.readable)
            case .failed(let errno): throw errno
            }
        }
    }

    enum Received: Equatable {
        case bytes([UInt8])
        case end
        case nothing
        case failed(Errno)
    }

    /// What is there now.
    func tryReceive(upTo capacity: Int = 1 << 20) -> Received {
        var result = IOResult.count(0)
        let bytes = [UInt8](unsafeUninitializedCapacity: capacity) { buffer, count in
            result = DescriptorIO.receive(rawDescriptor, into: UnsafeMutableRawBufferPointer(buffer))
            if case .count(let received) = result { count = received }
        }
        switch result {
        case .count(0): return .end
        case .count: return .bytes(bytes)
        case .wouldBlock: return .nothing
        case .failed(let errno): return .failed(errno)
        }
    }

    /// So many bytes of a stream.
    func receive(exactly byteCount: Int) throws -> [UInt8] {
        var bytes: [UInt8] = []
        while bytes.count < byteCount {
            guard let more = try receive(upTo: byteCount - bytes.count) else {
                throw TestFailure("end of file after \(bytes.count) of \(byteCount) bytes")
            }
            bytes += more
        }
        return bytes
    }

    /// Everything until end of file.
    func receiveToEnd() throws -> [UInt8] {
        var bytes: [UInt8] = []
        while let more = try receive() { bytes += more }
        return bytes
    }

    /// All records until end of file.
    func receiveRecordsToEnd() throws -> [[UInt8]] {
        var records: [[UInt8]] = []
        while let record = try receive() { records.append(record) }
        return records
    }

    /// A line of a stream, without its newline, or a record.
    func receiveLine() throws -> String? {
        if type == .seqpacket { return try receive().map { String(decoding: $0, as: UTF8.self) } }
        var line: [UInt8] = []
        while let byte = try receive(upTo: 1) {
            if byte == [UInt8(ascii: "\n")] { return String(decoding: line, as: UTF8.self) }
            line += byte
        }
        return line.isEmpty ? nil : String(decoding: line, as: UTF8.self)
    }

    /// Waits until the device has closed the socket, and says whether it did so without a word.
    func isClosedWithoutText() throws -> Bool {
        do {
            return try receive() == nil
        } catch let errno as Errno where errno == .connectionReset {
            // Closed with what this program had sent unread.
            return true
        }
    }

    /// Waits until the socket is hung up: closed by the device.
    func waitForHangUp() throws {
        try eventually { try ready([.readable]).contains(.hangUp) }
    }

    /// What is ready now.
    func ready(_ events: PollEvents) throws -> PollEvents {
        try DescriptorIO.waitUntilReady(rawDescriptor, for: events, timeoutNanoseconds: 0)
    }

    private func wait(_ events: PollEvents) throws {
        let ready = try DescriptorIO.waitUntilReady(rawDescriptor, for: events, timeoutNanoseconds: testDeadline)
        guard !ready.isEmpty else { throw TestFailure("the host program waits in vain") }
    }
}

extension UnixSocket {
    /// Two host programs that are connected to each other.
    static func makeSharedPair() throws -> (HostProgram, HostProgram) {
        let pair = try makePair(.stream, nonBlocking: true)
        return (HostProgram(pair.first, type: .stream), HostProgram(pair.second, type: .stream))
    }
}

extension UnixListener {
    /// Waits for a connection.
    func take() throws -> HostProgram {
        let deadline = MonotonicClock.now() + testDeadline
        while MonotonicClock.now() < deadline {
            if let descriptor = try accept() {
                // As programs do that send large records.
                try SocketOptions.setSendBuffer(descriptor.rawValue, byteCount: 4 << 20)
                return HostProgram(descriptor, type: type)
            }
            _ = try DescriptorIO.waitUntilReady(
                rawDescriptor, for: .readable, timeoutNanoseconds: testDeadline)
        }
        throw TestFailure("nobody connects")
    }
}
