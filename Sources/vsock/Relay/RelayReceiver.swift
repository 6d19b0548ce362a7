// SPDX-License-Identifier: Apache-2.0
//
// From a socket to standard output. Records that wait are received together and leave in one write.

import VsockSystem

/// The receiving half of a relay.
struct RelayReceiver {
    let socket: RelaySocket
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

    // MARK: Streams

    private func receiveBytes() throws -> ConnectionFailure? {
        let buffer = UnsafeMutableRawBufferPointer.allocate(byteCount: Self.chunkByteCount, alignment: 4096)
        defer { buffer.deallocate() }
        var failure: ConnectionFailure?
        while true {
            switch DescriptorIO.receive(socket.rawDescriptor, into: buffer) {
            case .count(0): return failure
            case .count(let count):
                try StandardOutput.write(UnsafeRawBufferPointer(rebasing: buffer[..<count]))
            case .wouldBlock: try waitUntilReadable()
            case .failed(.connectionReset) where failure == nil:
                // Reported once; what came before may still be there.
                failure = .reset
            case .failed(let errno): return failure ?? .socket(errno)
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
            let result = receiveRecord(into: room, filled == 0 ? .truncated : [.truncated, .doNotWait])
            if case .message(let count, let flags) = result, count > 0 || !socket.isEnd(flags) {
                guard count <= room.count, !flags.contains(.truncated) else {
                    try StandardOutput.write(UnsafeRawBufferPointer(rebasing: buffer[..<filled]))
                    return .receivedRecordTooLarge(byteCount: count)
                }
                filled += count
                if case .separator(let separator) = boundary {
                    buffer[filled] = separator
                    filled += 1
                }
                if filled < Self.chunkByteCount { continue }
            }
            try StandardOutput.write(UnsafeRawBufferPointer(rebasing: buffer[..<filled]))
            // Without records, what was received above was waited for.
            let waited = filled == 0
            filled = 0
            switch result {
            case .message(0, let flags) where socket.isEnd(flags): return failure
            case .message: break
            case .wouldBlock: if waited { try waitUntilReadable() }
            case .failed(.connectionReset) where failure == nil: failure = .reset
            case .failed(let errno): return failure ?? .socket(errno)
            }
        }
    }

    /// Receives one record; its full size even if it does not fit.
    private func receiveRecord(into room: UnsafeMutableRawBufferPointer, _ flags: MessageFlags) -> MessageResult {
        /// `struct iovec`
        struct Segment {
            let base: UnsafeMutableRawPointer?
            let count: Int
        }
        return withUnsafePointer(to: Segment(base: room.baseAddress, count: room.count)) { segment in
            segment.withMemoryRebound(to: IOVector.self, capacity: 1) { vector in
                DescriptorIO.receiveMessage(socket.rawDescriptor, into: vector, count: 1, flags: flags)
            }
        }
    }

    private func waitUntilReadable() throws {
        _ = try DescriptorIO.waitUntilReady(
            socket.rawDescriptor, for: .readable, timeoutNanoseconds: nil)
    }
}
