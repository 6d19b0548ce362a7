// SPDX-License-Identifier: Apache-2.0
//
// An application at one end of a simulated connection: what it sends, what it has received, and how much of that it
// may consume. In the standard framing it takes records as a whole, the strictest reader there is.

import VsockCore
import VsockWire

/// What one send(2) carries: a record, or all bytes of a stream.
public struct Message: Equatable, Sendable {
    /// The bytes.
    public var bytes: [UInt8]
    /// Whether it is sent with MSG_EOR.
    public var endOfRecord: Bool

    /// A message.
    public init(_ bytes: [UInt8], endOfRecord: Bool = false) {
        self.bytes = bytes
        self.endOfRecord = endOfRecord
    }
}

/// One end of a simulated connection.
struct SimulatedSocket: Sendable {
    let id: ConnectionID
    let type: SocketType
    let consumesUnfinishedRecords: Bool

    /// What is to be sent, and how far that has got.
    let outbox: [Message]
    var nextMessage = 0
    var offset = 0
    var isRecordStarted = false
    var isBlocked = false
    /// Payload sent, markers included.
    var transmittedByteCount = 0

    /// Finished records; a stream has none and keeps its bytes in `unfinished`.
    var inbox: [Message] = []
    var unfinished: [UInt8] = []
    /// Bytes that may be consumed, and bytes of an unfinished record that may not yet.
    var consumableByteCount = 0
    var heldByteCount = 0

    var isConnected = false
    var hasShutDown = false
    var peerShutdown: ShutdownFlags = []
    var isGone = false

    init(id: ConnectionID, type: SocketType, framing: RecordFraming, outbox: [Message]) {
        self.id = id
        self.type = type
        self.outbox = outbox
        consumesUnfinishedRecords = type == .stream || framing.consumesUnfinishedRecords
    }

    var hasSentAll: Bool { nextMessage == outbox.count }

    mutating func receive(_ payload: [UInt8], _ verdict: PayloadVerdict) {
        if verdict.discardsUnfinishedRecord {
            unfinished = []
            releaseHeld()
        }
        if verdict.deliversPayload {
            unfinished += payload
            heldByteCount += payload.count
            if consumesUnfinishedRecords { releaseHeld() }
        }
        if verdict.endsRecord {
            inbox.append(Message(unfinished, endOfRecord: verdict.hasEndOfRecordMark))
            unfinished = []
            releaseHeld()
        }
    }

    private mutating func releaseHeld() {
        consumableByteCount += heldByteCount
        heldByteCount = 0
    }

    /// Whether this has received exactly (or, `asPrefix`, the first part of) what `peer` sent.
    func hasReceived(_ sent: [Message], asPrefix: Bool) -> Bool {
        if type == .stream {
            let bytes = sent.flatMap(\.bytes)
            return asPrefix ? bytes.starts(with: unfinished) : bytes == unfinished
        }
        if asPrefix { return sent.starts(with: inbox) }
        return sent == inbox && unfinished.isEmpty
    }
}
