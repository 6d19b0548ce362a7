// SPDX-License-Identifier: Apache-2.0
//
// The vocabulary of socket calls: flags, results, options and readiness, with the names of vsock(7), recv(2), send(2)
// and poll(2).

import VsockCore
import VsockWire

/// Flags of a receive, and its time limit.
public struct ReceiveOptions: Sendable {
    /// MSG_PEEK: leaves what is received in the socket. On a stream it takes what there is, also less than SO_RCVLOWAT.
    public var peeks = false
    /// MSG_DONTWAIT: fails with EAGAIN instead of waiting.
    public var doesNotWait = false
    /// MSG_WAITALL: on a stream, waits until the buffer is full or the stream ends. Records ignore it.
    public var waitsForAll = false
    /// SO_RCVTIMEO for this call as a whole, in nanoseconds; nil is the socket's.
    public var timeoutNanoseconds: UInt64?

    /// A receive that waits as the socket's options say.
    public init(
        peeks: Bool = false, doesNotWait: Bool = false, waitsForAll: Bool = false, timeoutNanoseconds: UInt64? = nil
    ) {
        self.peeks = peeks
        self.doesNotWait = doesNotWait
        self.waitsForAll = waitsForAll
        self.timeoutNanoseconds = timeoutNanoseconds
    }
}

/// Flags of a send, and its time limit.
public struct SendOptions: Sendable {
    /// MSG_EOR: marks the record's end of record. Streams ignore it.
    public var endOfRecord = false
    /// MSG_DONTWAIT: fails with EAGAIN instead of waiting; a stream may send a part.
    public var doesNotWait = false
    /// SO_SNDTIMEO for this call as a whole, in nanoseconds; nil is the socket's.
    public var timeoutNanoseconds: UInt64?

    /// A send that waits as the socket's options say.
    public init(endOfRecord: Bool = false, doesNotWait: Bool = false, timeoutNanoseconds: UInt64? = nil) {
        self.endOfRecord = endOfRecord
        self.doesNotWait = doesNotWait
        self.timeoutNanoseconds = timeoutNanoseconds
    }
}

/// What a receive got.
public struct ReceiveResult: Sendable, Equatable {
    /// Bytes in the buffer.
    public var count = 0
    /// Bytes of the record, also those that did not fit (what recv(2) returns with MSG_TRUNC); `count` on a stream.
    public var fullLength = 0
    /// MSG_EOR: the record was sent with it.
    public var endOfRecord = false
    /// MSG_TRUNC: the record was longer than the buffer; the rest is lost.
    public var truncated = false
    /// The end of the stream or of the records: nothing comes any more. Tells it from an empty record or buffer.
    public var isEnd = false

    /// A result.
    public init(
        count: Int = 0, fullLength: Int = 0, endOfRecord: Bool = false, truncated: Bool = false, isEnd: Bool = false
    ) {
        self.count = count
        self.fullLength = fullLength
        self.endOfRecord = endOfRecord
        self.truncated = truncated
        self.isEnd = isEnd
    }
}

/// Readiness of a socket, poll(2).
public struct SocketReadiness: OptionSet, Hashable, Sendable {
    /// The bits of poll(2).
    public let rawValue: UInt32
    /// Any bits.
    public init(rawValue: UInt32) { self.rawValue = rawValue }

    /// POLLIN: a receive or accept would not wait. Of records, only a complete one counts, or the end; and a record
    /// larger than the buffer once a reader has to take a part so that the rest can come.
    public static let readable = SocketReadiness(rawValue: 0x001)
    /// POLLOUT: something can be sent, or connecting has ended.
    public static let writable = SocketReadiness(rawValue: 0x004)
    /// POLLERR: an error waits to be taken.
    public static let error = SocketReadiness(rawValue: 0x008)
    /// POLLHUP: both directions have ended.
    public static let hangUp = SocketReadiness(rawValue: 0x010)
    /// POLLRDHUP: nothing more comes.
    public static let readHangUp = SocketReadiness(rawValue: 0x2000)

    var waitKind: WaitKind {
        guard contains(.writable) else { return .readable }
        return isDisjoint(with: [.readable, .readHangUp]) ? .writable : .any
    }
}

/// Options of a socket. Sizes are bytes, times are nanoseconds.
public struct SocketSettings: Sendable, Equatable {
    /// SO_VM_SOCKETS_BUFFER_SIZE: the receive buffer, and so the credit that the peer gets.
    public internal(set) var bufferSize: UInt64
    /// SO_VM_SOCKETS_BUFFER_MIN_SIZE
    public internal(set) var bufferMinimumSize: UInt64 = 128
    /// SO_VM_SOCKETS_BUFFER_MAX_SIZE
    public internal(set) var bufferMaximumSize: UInt64
    /// SO_VM_SOCKETS_CONNECT_TIMEOUT
    public internal(set) var connectTimeoutNanoseconds = EndpointConfiguration.defaultConnectTimeoutNanoseconds
    /// SO_RCVTIMEO; 0 waits for ever.
    public internal(set) var receiveTimeoutNanoseconds: UInt64 = 0
    /// SO_SNDTIMEO; 0 waits for ever.
    public internal(set) var sendTimeoutNanoseconds: UInt64 = 0
    /// SO_RCVLOWAT: bytes that a receive on a stream waits for.
    public internal(set) var receiveLowWaterMark = 1

    init(bufferSize: UInt64 = UInt64(EndpointConfiguration.defaultBufferByteCount)) {
        self.bufferSize = bufferSize
        bufferMaximumSize = bufferSize
    }

    /// What a connection has of its listener (Linux: __vsock_create with a parent): buffers and connect timeout.
    var inherited: SocketSettings {
        var settings = self
        settings.receiveTimeoutNanoseconds = 0
        settings.sendTimeoutNanoseconds = 0
        settings.receiveLowWaterMark = 1
        return settings
    }

    /// What SO_RCVLOWAT becomes. Linux takes any number for records, although no receive of one looks at it.
    func lowWaterMark(_ count: Int, _ type: SocketType) throws(SocketError) -> Int {
        let mark = count < 0 ? Int(Int32.max) : max(1, count)
        guard type != .stream || UInt64(mark) <= bufferSize else { throw .invalidArgument }
        return mark
    }
}

/// One option to set.
public enum SocketOption: Sendable {
    /// SO_VM_SOCKETS_BUFFER_SIZE, kept between minimum and maximum.
    case bufferSize(UInt64)
    /// SO_VM_SOCKETS_BUFFER_MIN_SIZE; raises the size if it is below, up to the maximum.
    case bufferMinimumSize(UInt64)
    /// SO_VM_SOCKETS_BUFFER_MAX_SIZE; lowers the size if it is above, also below the minimum.
    case bufferMaximumSize(UInt64)
    /// SO_VM_SOCKETS_CONNECT_TIMEOUT; zero means two seconds. Negative: ERANGE.
    case connectTimeout(Duration)
    /// SO_RCVTIMEO; zero waits for ever.
    case receiveTimeout(Duration)
    /// SO_SNDTIMEO; zero waits for ever.
    case sendTimeout(Duration)
    /// SO_RCVLOWAT; zero means one. More than the buffer, or less than zero: EINVAL. Records have no use for it.
    case receiveLowWaterMark(Int)
}

/// Which directions to shut down, shutdown(2).
public enum ShutdownDirection: Sendable {
    /// SHUT_RD
    case receive
    /// SHUT_WR
    case send
    /// SHUT_RDWR
    case both

    var flags: ShutdownFlags {
        switch self {
        case .receive: .receive
        case .send: .send
        case .both: .both
        }
    }
}

/// What one attempt came to.
public enum Attempt<Value> {
    /// It is done.
    case done(Value)
    /// It cannot go on before something happens.
    case blocked(WaitTicket)
}

extension Duration {
    /// Nanoseconds; nil when negative or beyond the end of time.
    var wholeNanoseconds: UInt64? {
        let (seconds, attoseconds) = components
        guard seconds >= 0, attoseconds >= 0, let seconds = UInt64(exactly: seconds) else { return nil }
        let (product, overflow) = seconds.multipliedReportingOverflow(by: 1_000_000_000)
        guard !overflow else { return nil }
        let (sum, carry) = product.addingReportingOverflow(UInt64(attoseconds / 1_000_000_000))
        return carry ? nil : sum
    }
}
