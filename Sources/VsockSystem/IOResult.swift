// SPDX-License-Identifier: Apache-2.0
//
// Results of non-blocking input and output: small values, because EAGAIN is a normal case on these paths, no error.

import Glibc

/// What a read or write did.
@frozen
public enum IOResult: Equatable, Sendable {
    /// Bytes moved (or messages, for a batch). 0 from a read is end of file, or an empty record.
    case count(Int)
    /// EAGAIN: nothing moved; wait until the descriptor is ready.
    case wouldBlock
    /// Anything else. EINTR does not occur: interrupted calls are repeated.
    case failed(Errno)

    /// From the result of ``systemCall(_:)``.
    @inline(__always)
    init(systemCall result: Int) {
        if result >= 0 {
            self = .count(result)
        } else if result == -Int(EAGAIN) {
            self = .wouldBlock
        } else {
            self = .failed(Errno(negated: result))
        }
    }
}

/// Flags of send(2) and recv(2), in both directions.
@frozen
public struct MessageFlags: OptionSet, Sendable {
    /// MSG_* bits.
    public var rawValue: Int32

    /// Wraps MSG_* bits.
    @inlinable
    public init(rawValue: Int32) {
        self.rawValue = rawValue
    }

    /// MSG_PEEK: leave the data in the socket.
    @inlinable public static var peek: MessageFlags { MessageFlags(rawValue: Int32(MSG_PEEK)) }
    /// MSG_TRUNC: on input, report the full length of a record; on output of a receive, the record was cut.
    @inlinable public static var truncated: MessageFlags { MessageFlags(rawValue: Int32(MSG_TRUNC)) }
    /// MSG_CTRUNC: descriptors were lost because there was no room for them.
    @inlinable public static var controlTruncated: MessageFlags { MessageFlags(rawValue: Int32(MSG_CTRUNC)) }
    /// MSG_EOR: this is the end of a record. AF_UNIX accepts it and does not deliver it.
    @inlinable public static var endOfRecord: MessageFlags { MessageFlags(rawValue: Int32(MSG_EOR)) }
    /// MSG_DONTWAIT: this call only does not block.
    @inlinable public static var doNotWait: MessageFlags { MessageFlags(rawValue: Int32(MSG_DONTWAIT)) }
    /// MSG_WAITALL: block until the buffer is full.
    @inlinable public static var waitAll: MessageFlags { MessageFlags(rawValue: Int32(MSG_WAITALL)) }
    /// MSG_MORE
    @inlinable public static var more: MessageFlags { MessageFlags(rawValue: Int32(MSG_MORE)) }
    /// MSG_NOSIGNAL: EPIPE without the signal. Every send of this module sets it.
    @inlinable static var noSignal: MessageFlags { MessageFlags(rawValue: Int32(MSG_NOSIGNAL)) }
}

/// What a receive of one message did.
@frozen
public enum MessageResult: Equatable, Sendable {
    /// Bytes received and what recvmsg(2) said of them.
    case message(count: Int, flags: MessageFlags)
    /// EAGAIN: there is no message.
    case wouldBlock
    /// Anything else.
    case failed(Errno)
}

/// One segment of a scattered or gathered transfer: `struct iovec`, for callers that do not import the C library.
public typealias IOVector = iovec
