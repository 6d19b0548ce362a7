// SPDX-License-Identifier: Apache-2.0
//
// Cuts the byte stream of a vhost-user socket into messages, without reading beyond the one at hand: descriptors
// arrive with the first byte of their message, so a reader that never asks for more than `bytesNeeded` cannot mix up
// those of two messages.
//
// The caller keeps the descriptors it received since the last message; they belong to the next one that comes out.

/// One complete message.
public struct Message: Equatable, Sendable {
    /// What the message is.
    public var header: MessageHeader
    /// What followed the header: `header.payloadByteCount` bytes.
    public var payload: [UInt8]

    /// A message of these parts.
    public init(header: MessageHeader, payload: [UInt8]) {
        self.header = header
        self.payload = payload
    }
}

/// Assembles messages from the bytes of a socket.
public struct MessageReader: Sendable {
    private var bytes: [UInt8]
    private var filledByteCount = 0
    private var header: MessageHeader?

    /// A reader at the start of a stream. It holds room for the largest message, and never grows.
    public init() {
        bytes = [UInt8](repeating: 0, count: MessageHeader.byteCount + MessageHeader.payloadLimit)
    }

    /// The bytes to read next, at least 1: what the header or the payload at hand still lacks.
    public var bytesNeeded: Int {
        MessageHeader.byteCount + (header?.payloadByteCount ?? 0) - filledByteCount
    }

    /// Whether part of a message has arrived: an end of file now is a truncated message.
    public var isInsideMessage: Bool { filledByteCount > 0 }

    /// Reads once: `read` gets room for exactly `bytesNeeded` bytes and returns how many it stored; 0 or less leaves
    /// the reader as it is (would block, end of file).
    ///
    /// - Returns: the message that these bytes complete, or nil if more are needed.
    /// - Throws: `.wrongVersion` or `.payloadTooLarge`; the stream is then of no more use.
    public mutating func fill(
        _ read: (UnsafeMutableRawBufferPointer) -> Int
    ) throws(VhostUserError) -> Message? {
        let room = filledByteCount..<(filledByteCount + bytesNeeded)
        let count = bytes.withUnsafeMutableBytes { read(UnsafeMutableRawBufferPointer(rebasing: $0[room])) }
        precondition(count <= room.count, "more bytes stored than there was room for")
        guard count > 0 else { return nil }
        filledByteCount += count
        return try takeMessage()
    }

    private mutating func takeMessage() throws(VhostUserError) -> Message? {
        if header == nil, filledByteCount == MessageHeader.byteCount {
            header = try MessageHeader(parsing: bytes.span.bytes)
        }
        guard let header, bytesNeeded == 0 else { return nil }
        let payload = Array(bytes[MessageHeader.byteCount..<filledByteCount])
        self.header = nil
        filledByteCount = 0
        return Message(header: header, payload: payload)
    }
}
