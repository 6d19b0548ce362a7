// SPDX-License-Identifier: Apache-2.0
//
// The framing that Linux speaks since 5.14: virtio 1.2+ "Socket Device / Message and Record Boundaries".
//
//      RW(flags 0) ... RW(flags EOM)            a message
//      RW(flags 0) ... RW(flags EOM | EOR)      a message sent with MSG_EOR: a record ends with it
//
// A message has at least one byte: the standard defines no encoding for an empty one, and Linux sends nothing for it.

import VsockWire

enum StandardFraming {
    /// The flags say it all. EOR counts only together with EOM, on the last packet.
    static func receive(_ header: PacketHeader) -> PayloadVerdict {
        let flags = SequenceFlags(rawValue: header.flags)
        guard header.payloadByteCount > 0 else {
            // No encoding for an empty message, and no credit that bounds how many of them come.
            return PayloadVerdict(deliversPayload: false)
        }
        return PayloadVerdict(
            endsRecord: flags.contains(.endOfMessage),
            hasEndOfRecordMark: flags.contains([.endOfMessage, .endOfRecord]))
    }
}

struct StandardSender: Sendable {
    private(set) var remainingByteCount = 0
    /// Bytes of the record that were sent.
    private(set) var sentByteCount = 0
    private var marksEndOfRecord = false

    mutating func begin(byteCount: Int, endOfRecord: Bool) {
        precondition(byteCount > 0, "the standard framing has no empty records")
        remainingByteCount = byteCount
        sentByteCount = 0
        marksEndOfRecord = endOfRecord
    }

    mutating func next(limit: Int) -> RecordFragment? {
        let byteCount = min(limit, remainingByteCount)
        guard byteCount > 0 else { return nil }
        remainingByteCount -= byteCount
        sentByteCount += byteCount
        var flags: SequenceFlags = []
        if remainingByteCount == 0 { flags = marksEndOfRecord ? [.endOfMessage, .endOfRecord] : .endOfMessage }
        return RecordFragment(
            operation: .readWrite, flags: flags, payload: .application(byteCount), byteCount: byteCount)
    }
}
