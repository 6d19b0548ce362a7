// SPDX-License-Identifier: Apache-2.0
//
// From standard input to a socket, on a thread of its own.

import VsockCore
import VsockSystem
import VsockTransport

/// The sending half of a relay. Unchecked: ``run()`` is called once, on one thread, and what it leaves is read when
/// that thread has been joined.
final class RelaySender: @unchecked Sendable {
    /// Why not all of the input was sent. To be read after the thread has ended.
    private(set) var failure: ConnectionFailure?

    private let connection: RelaySocket
    private let content: RelayContent
    private let shutsDown: Bool
    private let checksUnread: Bool
    private var input: StandardInput

    /// What one read takes for a stream.
    private static let chunkByteCount = 256 << 10

    /// A sender of `input`. `shutsDown`: the end of input ends the sending direction. `checksUnread`: being stopped
    /// with input left is a failure; finding out takes some of it.
    init(
        _ connection: RelaySocket, _ input: consuming StandardInput, _ content: RelayContent, shutsDown: Bool,
        checksUnread: Bool
    ) {
        self.connection = connection
        self.input = input
        self.content = content
        self.shutsDown = shutsDown
        self.checksUnread = checksUnread
    }

    /// Sends until the end of input or until it is stopped.
    func run() {
        do throws(ConnectionFailure) {
            let atEnd: Bool
            switch content {
            case .bytes: atEnd = try sendBytes()
            case .records(let boundary): atEnd = try sendRecords(boundary)
            }
            if atEnd {
                if shutsDown { connection.shutdown(.send) }
            } else if checksUnread, StandardInput.hasUnreadBytes() {
                failure = .inputRefused
            }
        } catch {
            failure = error
            // The peer may have more to say if it only takes no more; anything else ends the connection.
            if error != .inputRefused { connection.shutdown(.both) }
        }
    }

    // MARK: Streams

    /// True at the end of input, false when stopped.
    private func sendBytes() throws(ConnectionFailure) -> Bool {
        let buffer = UnsafeMutableRawBufferPointer.allocate(byteCount: Self.chunkByteCount, alignment: 4096)
        defer { buffer.deallocate() }
        while true {
            switch input.read(into: buffer) {
            case .bytes(let count):
                var rest = UnsafeRawBufferPointer(rebasing: buffer[..<count])
                while !rest.isEmpty {
                    let sent = try send(rest)
                    rest = UnsafeRawBufferPointer(rebasing: rest[sent...])
                }
            case .end: return true
            case .stopped: return false
            case .failed(let errno): throw .input(errno)
            }
        }
    }

    // MARK: Records

    private func sendRecords(_ boundary: RecordBoundary) throws(ConnectionFailure) -> Bool {
        var records = RecordInput(boundary)
        var saidEmpty = false
        while true {
            switch input.read(into: records.room()) {
            case .bytes(let count):
                records.append(byteCount: count)
                while let record = records.next() {
                    if !record.isEmpty {
                        try sendRecord(record)
                    } else if !saidEmpty {
                        saidEmpty = true
                        Console.report("vsock: empty lines are skipped: SOCK_SEQPACKET sends no empty record")
                    }
                }
                if records.unfinishedByteCount > RecordInput.maximumRecordByteCount { throw .unboundedRecord }
            case .end:
                if let record = records.last() { try sendRecord(record) }
                return true
            case .stopped:
                guard records.unfinishedByteCount == 0 else { throw .inputRefused }
                return false
            case .failed(let errno): throw .input(errno)
            }
        }
    }

    private func sendRecord(_ record: UnsafeRawBufferPointer) throws(ConnectionFailure) {
        guard try send(record) == record.count else { throw .inputRefused }
    }

    // MARK: Both

    private func send(_ bytes: UnsafeRawBufferPointer) throws(ConnectionFailure) -> Int {
        do throws(SocketError) {
            return try connection.socket.send(bytes)
        } catch {
            switch error {
            case .brokenPipe, .notConnected: throw .inputRefused
            case .connectionReset: throw .reset
            case .messageTooLong: throw .recordTooLarge(byteCount: bytes.count)
            default: throw .socket(error)
            }
        }
    }
}
