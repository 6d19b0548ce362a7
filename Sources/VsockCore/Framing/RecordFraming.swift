// SPDX-License-Identifier: Apache-2.0
//
// How SOCK_SEQPACKET records are marked on the wire. There are two ways, and a device uses one of them for all its
// connections, decided when features are negotiated. Nothing outside this folder knows which is in force: a receiver
// turns packets into ``PayloadVerdict``s, a sender turns a record into ``OutgoingPacket``s.
//
//      standard    RW ... RW(EOM [EOR])                 virtio 1.2+ "Message and Record Boundaries"
//      rfc-v5      SEQ_BEGIN RW ... RW SEQ_END          "virtio/vsock: introduce SOCK_SEQPACKET support", RFC v5

import VsockWire

/// The record framing of a device.
public enum RecordFraming: Sendable, Hashable {
    /// Flags on RW packets; a record is at most as large as the receiver's buffer.
    case standard
    /// Marker packets around RW packets; a record of any size flows through the receiver's buffer.
    case rfcV5
    /// No seqpacket at all: packets of that type are reset.
    case none

    /// Whether the receiver must consume a record's payload before its end has come: otherwise a record larger than
    /// the buffer never ends. In the standard framing a sender refuses such records.
    public var consumesUnfinishedRecords: Bool { self == .rfcV5 }

    /// Whether an operation exists on a device with this framing.
    func defines(_ operation: Operation) -> Bool {
        switch operation {
        case .request, .response, .reset, .shutdown, .readWrite, .creditUpdate, .creditRequest: true
        case .sequenceBegin, .sequenceEnd: self == .rfcV5
        default: false
        }
    }
}

/// What the payload of a packet means to its receiver.
public struct PayloadVerdict: Equatable, Sendable {
    /// An unfinished record is void: what was received of it is to be thrown away (and consumed).
    public var discardsUnfinishedRecord = false
    /// The payload belongs to the application; otherwise the core has consumed it.
    public var deliversPayload = true
    /// The payload ends a record.
    public var endsRecord = false
    /// The record was sent with MSG_EOR; only with `endsRecord`.
    public var hasEndOfRecordMark = false

    /// Bytes of a stream, or of a record that goes on.
    public static let payload = PayloadVerdict()
}

/// A packet to be sent.
public struct OutgoingPacket: Equatable, Sendable {
    /// Where the payload comes from.
    public enum Payload: Equatable, Sendable {
        /// There is none.
        case none
        /// The next bytes that the application sends; their number.
        case application(Int)
        /// A record marker.
        case marker(SequenceHeader)
    }

    /// The header, credit included.
    public var header: PacketHeader
    /// The payload.
    public var payload: Payload
}

/// The receiving half of a framing, one per connection.
enum RecordReceiver: Sendable {
    case standard
    case rfcV5(RFCv5Receiver)

    init(_ framing: RecordFraming) {
        self = framing == .rfcV5 ? .rfcV5(RFCv5Receiver()) : .standard
    }

    mutating func receive(_ header: PacketHeader, marker: SequenceHeader?) -> PayloadVerdict {
        switch self {
        case .standard:
            return StandardFraming.receive(header)
        case .rfcV5(var receiver):
            defer { self = .rfcV5(receiver) }
            return receiver.receive(header, marker: marker)
        }
    }
}

/// One packet of a record, before addresses and credit are filled in.
struct RecordFragment: Equatable, Sendable {
    var operation: Operation
    var flags: SequenceFlags
    var payload: OutgoingPacket.Payload
    var byteCount: Int
}

/// The sending half of a framing, one per connection: at most one record is under way.
enum RecordSender: Sendable {
    case standard(StandardSender)
    case rfcV5(RFCv5Sender)

    init(_ framing: RecordFraming) {
        self = framing == .rfcV5 ? .rfcV5(RFCv5Sender()) : .standard(StandardSender())
    }

    /// Whether a record is under way.
    var isSending: Bool {
        switch self {
        case .standard(let sender): sender.remainingByteCount > 0
        case .rfcV5(let sender): sender.isSending
        }
    }

    /// Credit without which the next packet cannot be sent: a marker is never split.
    var minimumByteCount: Int {
        switch self {
        case .standard: 1
        case .rfcV5(let sender): sender.minimumByteCount
        }
    }

    /// Bytes of the record under way that have been sent; 0 when none is. Its receiver may keep them until the rest has
    /// come: in the standard framing it must, in that of RFC v5 it does as long as they leave room in its buffer.
    var heldByteCount: Int {
        switch self {
        case .standard(let sender): sender.remainingByteCount > 0 ? sender.sentByteCount : 0
        case .rfcV5(let sender): sender.isSending ? sender.sentByteCount : 0
        }
    }

    /// Starts a record.
    mutating func begin(byteCount: Int, endOfRecord: Bool) {
        precondition(!isSending, "one record at a time")
        switch self {
        case .standard(var sender):
            sender.begin(byteCount: byteCount, endOfRecord: endOfRecord)
            self = .standard(sender)
        case .rfcV5(var sender):
            sender.begin(byteCount: byteCount, endOfRecord: endOfRecord)
            self = .rfcV5(sender)
        }
    }

    /// Ends the record under way without its end.
    mutating func abandon() {
        guard isSending, case .rfcV5(var sender) = self else { return }
        sender.abandon()
        self = .rfcV5(sender)
    }

    /// The next packet, of at most `limit` payload bytes; nil when none fits.
    mutating func next(limit: Int) -> RecordFragment? {
        switch self {
        case .standard(var sender):
            defer { self = .standard(sender) }
            return sender.next(limit: limit)
        case .rfcV5(var sender):
            defer { self = .rfcV5(sender) }
            return sender.next(limit: limit)
        }
    }
}
