// SPDX-License-Identifier: Apache-2.0
//
// The credit of a connection as its device keeps it, to be compared with what was sent and read.

import Testing
import VsockCore

@testable import VsockTransport

/// What a guest has sent on a connection to a host program, and where those bytes are.
struct ConnectionCredit: Sendable, Equatable {
    /// Bytes that wait for room in the host program's socket.
    var backlogByteCount = 0
    /// Those of them whose record is not complete.
    var openRecordByteCount = 0
    /// Bytes held whose credit the guest has back.
    var consumedAheadByteCount = 0
    /// Bytes whose credit it has not.
    var unreadByteCount = 0
    /// Bytes whose credit it has, since the start.
    var forwardedByteCount = 0
    /// All that it has sent.
    var receivedByteCount = 0

    init(_ socket: HostSocket, _ endpoint: borrowing Endpoint) {
        let credit = endpoint.snapshot(socket.id)?.credit
        backlogByteCount = socket.backlog.byteCount
        openRecordByteCount = socket.backlog.openRecordByteCount
        consumedAheadByteCount = socket.consumedAheadByteCount
        unreadByteCount = Int(credit?.receivedByteCount ?? 0)
        forwardedByteCount = Int(credit?.forwardedCount ?? 0)
        receivedByteCount = endpoint.counters.receivedBytes
    }
}

extension TestDevice {
    /// Of the one connection that there is.
    func credit() throws -> ConnectionCredit {
        let credit = try inspect { device in
            device.host.sockets.compactMap { $0 }.first.map { ConnectionCredit($0, device.host.endpoint) }
        }
        return try #require(credit, "there is no connection")
    }
}
