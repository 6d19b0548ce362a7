// SPDX-License-Identifier: Apache-2.0
//
// From a socket to standard output. Records that wait are received together and leave in one write.

import VsockCore
import VsockTransport

/// The receiving half of a relay.
struct RelayReceiver {
    let connection: RelaySocket
    let content: RelayContent

    /// What one read takes of a stream, and after which records are written.
    private static let chunkByteCount = 256 << 10

    /// Runs until the peer sends no more. Returns what broke the connection, if something did; throws what ends the
    /// command.
    func run() throws -> ConnectionFailure? {
        switch content {
        case .bytes: try receiveBytes()
        case .records(let boundary): try receiveRecords(boundary)
        }
    }

    /// What one receive brought.
    private enum Outcome {
        case received(ReceiveResult)
        case nothingYet
        case failed(SocketError)
    }

    private func receive(into room: UnsafeMutableRawBufferPointer, doesNotWait: Bool = false) -> Outcome {
        do throws(SocketError) {
            return .received(try connection.socket.receive(into: room, ReceiveOptions(doesNotWait: doesNotWait)))
        } catch {
            return error == .wouldBlock ? .nothingYet : .failed(error)
        }
    }

    // MARK: Streams

    private func receiveBytes() throws -> ConnectionFailure? {
        let buffer = UnsafeMutableRawBufferPointer.allocate(byteCount: Self.chunkByteCount, alignment: 4096)
        defer { buffer.deallocate() }
        var failure: ConnectionFailure?
        while true {
            switch receive(into: buffer) {
            case .received(let result) where result.isEnd: return failure
            case .received(let result):
                try StandardOutput.write(UnsafeRawBufferPointer(rebasing: buffer[..<result.count]))
            case .nothingYet: break
            case .failed(.connectionReset) where failure == nil:
                // Reported once; what came before may still be there.
                failure = .reset
            case .failed(let error): return failure ?? .socket(error)
            }
        }
    }

    // MARK: Records

    private func receiveRecords(_ boundary: RecordBoundary) throws -> ConnectionFailure? {
        // Memory that no record has reached yet costs nothing.
        let buffer = UnsafeMutableRawBufferPointer.allocate(
            byteCount: Self.chunkByteCount + RecordInput.maximumRecordByteCount + 1, alignment: 4096)
        defer { buffer.deallocate() }
        var failure: ConnectionFailure?
        var filled = 0
        while true {
            let room = UnsafeMutableRawBufferPointer(rebasing: buffer[filled..<(buffer.count - 1)])
            // Records that are there already are taken along.
            let outcome = receive(into: room, doesNotWait: filled > 0)
            if case .received(let result) = outcome, !result.isEnd {
                guard !result.truncated else {
                    try StandardOutput.write(UnsafeRawBufferPointer(rebasing: buffer[..<filled]))
                    return .receivedRecordTooLarge(byteCount: result.fullLength)
                }
                filled += result.count
                if case .separator(let separator) = boundary {
                    buffer[filled] = separator
                    filled += 1
                }
                if filled < Self.chunkByteCount { continue }
            }
            try StandardOutput.write(UnsafeRawBufferPointer(rebasing: buffer[..<filled]))
            filled = 0
            switch outcome {
            case .received(let result) where result.isEnd: return failure
            case .received, .nothingYet: break
            case .failed(.connectionReset) where failure == nil: failure = .reset
            case .failed(let error): return failure ?? .socket(error)
            }
        }
    }
}
