// SPDX-License-Identifier: Apache-2.0
//
// How far one end of a conversation has got, and the checker of what it receives: byte by byte, record by record.

import VsockWire

/// One end: what it has sent, and what it has received.
final class TrafficEnd {
    let type: SocketType
    let outgoing: Script
    let incoming: Script
    /// Whether the way carries MSG_EOR.
    let carriesMarks: Bool

    /// The part under way, and how much of it has been sent.
    private(set) var part = 0
    private(set) var partOffset = 0
    /// Complete parts that have come, of records; bytes that have come, of a stream.
    private(set) var receivedParts = 0
    private(set) var receivedByteCount = 0
    /// Bytes of the record that goes on.
    private(set) var openByteCount = 0

    /// It sends no more.
    var hasEnded = false
    /// The other end sends no more.
    var sawEnd = false
    /// It has closed, or its connection is gone.
    var isClosed = false
    /// What was wrong; the first defect stays.
    private(set) var defect: String?

    init(_ type: SocketType, outgoing: Script, incoming: Script, carriesMarks: Bool) {
        self.type = type
        self.outgoing = outgoing
        self.incoming = incoming
        self.carriesMarks = carriesMarks
    }

    // MARK: Sending

    /// Whether all has been sent.
    var hasSentAll: Bool { part == outgoing.parts.count }

    /// The bytes that come next: of the part under way, at most `limit`.
    func nextBytes(_ limit: Int) -> [UInt8] {
        guard !hasSentAll else { return [] }
        let start = outgoing.starts[part] + partOffset
        return outgoing.bytes(start..<(start + min(limit, remainingOfPart)))
    }

    /// Bytes of the part under way that have not been sent.
    var remainingOfPart: Int { hasSentAll ? 0 : outgoing.parts[part].byteCount - partOffset }

    /// Bytes of the part under way have been sent. A record ends with ``partSent()``, a stream's part with its bytes.
    func sent(_ byteCount: Int) {
        partOffset += byteCount
        if type == .stream, remainingOfPart == 0 { partSent() }
    }

    /// The part under way has been sent.
    func partSent() {
        part += 1
        partOffset = 0
    }

    /// Nothing more can be sent.
    func giveUpSending() {
        part = outgoing.parts.count
        partOffset = 0
    }

    // MARK: Receiving

    /// Bytes of a stream, or of the record that goes on.
    func received(_ bytes: UnsafeRawBufferPointer) {
        if type == .stream {
            if !incoming.matches(bytes, from: receivedByteCount) { fail("wrong bytes at \(receivedByteCount)") }
            receivedByteCount += bytes.count
            return
        }
        guard receivedParts < incoming.parts.count else { return fail("a record too many") }
        let start = incoming.starts[receivedParts] + openByteCount
        if openByteCount + bytes.count > incoming.parts[receivedParts].byteCount {
            fail("record \(receivedParts) of \(incoming.parts[receivedParts].byteCount) bytes has more")
        } else if !incoming.matches(bytes, from: start) {
            fail("wrong bytes in record \(receivedParts) at \(openByteCount)")
        }
        openByteCount += bytes.count
        receivedByteCount += bytes.count
    }

    /// The record that goes on is void.
    func recordDiscarded() {
        receivedByteCount -= openByteCount
        openByteCount = 0
    }

    /// A record is complete.
    func recordEnded(hasMark: Bool) {
        guard receivedParts < incoming.parts.count else { return fail("a record too many") }
        let expected = incoming.parts[receivedParts]
        if openByteCount != expected.byteCount {
            fail("record \(receivedParts) has \(openByteCount) bytes instead of \(expected.byteCount)")
        }
        if carriesMarks, hasMark != expected.endOfRecord { fail("record \(receivedParts) has a wrong MSG_EOR") }
        receivedParts += 1
        openByteCount = 0
    }

    /// Whether all has come.
    var hasReceivedAll: Bool {
        type == .stream ? receivedByteCount == incoming.byteCount : receivedParts == incoming.parts.count
    }

    /// How far it has got, for a report.
    var progress: String {
        "sent \(part)/\(outgoing.parts.count)+\(partOffset)\(hasEnded ? " ended" : ""), "
            + "received \(receivedParts)/\(incoming.parts.count) \(receivedByteCount)/\(incoming.byteCount)"
            + "\(sawEnd ? " end" : "")\(isClosed ? " closed" : "")"
    }

    func fail(_ text: String) { if defect == nil { defect = text } }
}
