// SPDX-License-Identifier: Apache-2.0
//
// The credit of a connection as its device keeps it, to be compared with what was sent and read.

import Testing
import VsockCore

@testable import VsockTransport

/// What a guest has sent on a connection to a host program, and where those bytes are.
struct ConnectionCredit: Sendable {
    /// Bytes that wait for room in the host program's socket.
    let backlogByteCount: Int
    /// Those of them whose record is not complete.
    let openRecordByteCount: Int
    /// Bytes held whose credit the guest has back.
    let consumedAheadByteCount: Int
    /// Bytes whose credit it has not.
    let unreadByteCount: Int
    /// Bytes whose credit it has, since the start.
    let forwardedByteCount: Int
    /// All that it has sent.
    let receivedByteCount: Int

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
