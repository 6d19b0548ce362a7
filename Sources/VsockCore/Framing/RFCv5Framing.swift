// SPDX-License-Identifier: Apache-2.0
//
// The framing of "[RFC PATCH v5 00/19] virtio/vsock: introduce SOCK_SEQPACKET support" (2021).
//
//      SEQ_BEGIN(msg_cnt c, msg_len L)   RW ... RW [RW_EOR on every one]   SEQ_END(msg_cnt c + 1, msg_len 0)
//
// Markers carry an 8-byte payload that costs credit and is never split. Fragments are consumed before the record is
// complete, so a record may be larger than the receiver's buffer. The receiver checks length and counter at the end;
// a record that fails is dropped without a reset, and so is whatever comes before the next SEQ_BEGIN ("orphans"):
//
//                    SEQ_BEGIN                        SEQ_END good: record
//          idle ------------------> in record ---------------------------> idle
//          | ^ RW, SEQ_END: orphan     | | SEQ_BEGIN: discard, start anew
//          +-+                         | +-> in record
//                                      | SEQ_END bad, more bytes than announced: discard
//                                      +-----------------------------------------> idle

import VsockWire

struct RFCv5Receiver: Sendable {
    private struct Record {
        var messageCount: UInt32
        var byteCount: UInt32
        var receivedByteCount: UInt32 = 0
        var hasEndOfRecordMark = false
    }

    private var record: Record?

    mutating func receive(_ header: PacketHeader, marker: SequenceHeader?) -> PayloadVerdict {
        switch header.operation {
        case .sequenceBegin: begin(marker)
        case .sequenceEnd: end(marker)
        default: append(header)
        }
    }

    private mutating func begin(_ marker: SequenceHeader?) -> PayloadVerdict {
        let isRestart = record != nil
        record = marker.map { Record(messageCount: $0.messageCount, byteCount: $0.messageByteCount) }
        return PayloadVerdict(discardsUnfinishedRecord: isRestart, deliversPayload: false)
    }

    private mutating func append(_ header: PacketHeader) -> PayloadVerdict {
        guard var current = record else { return PayloadVerdict(deliversPayload: false) }
        guard header.payloadByteCount <= current.byteCount - current.receivedByteCount else {
            record = nil
            return PayloadVerdict(discardsUnfinishedRecord: true, deliversPayload: false)
        }
        current.receivedByteCount += header.payloadByteCount
        if SequenceFlags(rawValue: header.flags).contains(.rfcV5EndOfRecord) { current.hasEndOfRecordMark = true }
        record = current
        return PayloadVerdict(deliversPayload: header.payloadByteCount > 0)
    }

    private mutating func end(_ marker: SequenceHeader?) -> PayloadVerdict {
        guard let current = record else { return PayloadVerdict(deliversPayload: false) }
        record = nil
        guard let marker, current.receivedByteCount == current.byteCount,
            marker.messageCount &- current.messageCount == 1
        else { return PayloadVerdict(discardsUnfinishedRecord: true, deliversPayload: false) }
        return PayloadVerdict(
            deliversPayload: false, endsRecord: true, hasEndOfRecordMark: current.hasEndOfRecordMark)
    }
}

struct RFCv5Sender: Sendable {
    private enum State {
        case idle
        case begin(byteCount: Int)
        case data(remaining: Int)
        case end
    }

    private var state = State.idle
    private var marksEndOfRecord = false
    /// What the next marker carries.
    private var messageCount: UInt32 = 0
    /// Bytes of the record that were sent, markers included.
    private(set) var sentByteCount = 0

    var isSending: Bool {
        if case .idle = state { false } else { true }
    }

    /// Credit that the next packet needs at least.
    var minimumByteCount: Int {
        if case .data = state { 1 } else { SequenceHeader.byteCount }
    }

    mutating func begin(byteCount: Int, endOfRecord: Bool) {
        state = .begin(byteCount: byteCount)
        sentByteCount = 0
        marksEndOfRecord = endOfRecord
    }

    /// The record stays unfinished: the next SEQ_BEGIN, with the counter that its SEQ_END would have had, voids it.
    mutating func abandon() { state = .idle }

    mutating func next(limit: Int) -> RecordFragment? {
        switch state {
        case .idle:
            return nil
        case .begin(let byteCount):
            guard limit >= SequenceHeader.byteCount else { return nil }
            state = byteCount == 0 ? .end : .data(remaining: byteCount)
            return marker(.sequenceBegin, messageByteCount: UInt32(truncatingIfNeeded: byteCount))
        case .data(let remaining):
            let byteCount = min(limit, remaining)
            guard byteCount > 0 else { return nil }
            state = byteCount == remaining ? .end : .data(remaining: remaining - byteCount)
            sentByteCount += byteCount
            return RecordFragment(
                operation: .readWrite, flags: marksEndOfRecord ? .rfcV5EndOfRecord : [],
                payload: .application(byteCount), byteCount: byteCount)
        case .end:
            guard limit >= SequenceHeader.byteCount else { return nil }
            state = .idle
            return marker(.sequenceEnd, messageByteCount: 0)
        }
    }

    private mutating func marker(_ operation: Operation, messageByteCount: UInt32) -> RecordFragment {
        defer { messageCount &+= 1 }
        sentByteCount += SequenceHeader.byteCount
        return RecordFragment(
            operation: operation, flags: [],
            payload: .marker(SequenceHeader(messageCount: messageCount, messageByteCount: messageByteCount)),
            byteCount: SequenceHeader.byteCount)
    }
}
