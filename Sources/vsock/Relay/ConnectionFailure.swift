// SPDX-License-Identifier: Apache-2.0

import VsockCore
import VsockSystem

/// Why a connection ended too early, or was not made: a line that names the peer and the remedy.
enum ConnectionFailure: Error, Equatable {
    /// The peer reset it.
    case reset
    /// The peer closed it, or shut its receiving direction, with input left.
    case inputRefused
    /// A record of the input is larger than the socket carries.
    case recordTooLarge(byteCount: Int)
    /// A record received is larger than the buffer.
    case receivedRecordTooLarge(byteCount: Int)
    /// The input has no end of record.
    case unboundedRecord
    /// Standard input failed.
    case input(Errno)
    /// Anything else.
    case socket(SocketError)

    /// The line for a user.
    func line(_ connection: RelaySocket) -> String {
        let peer = connection.peer
        switch self {
        case .reset:
            return "\(peer) reset the connection: the program there has ended, or closed it with data unread"
        case .inputRefused:
            return "\(peer) closed the connection before all of standard input was sent"
        case .recordTooLarge(let byteCount):
            return "a record of \(byteCount) bytes is too large for \(peer): \(Self.remedy(connection))"
        case .receivedRecordTooLarge(let byteCount):
            return "\(peer) sent a record of \(byteCount) bytes; "
                + "at most \(RecordInput.maximumRecordByteCount) are taken: send smaller ones"
        case .unboundedRecord:
            return "standard input has more than \(RecordInput.maximumRecordByteCount) bytes without an end of record: "
                + "give --record-size"
        case .input(let errno):
            return "standard input cannot be read: \(errno)"
        case .socket(let error):
            return "the connection to \(peer) failed: \(Errno(rawValue: error.errno))"
        }
    }

    private static func remedy(_ connection: RelaySocket) -> String {
        connection.transport.isHybrid
            ? "the socket's send buffer bounds it; send smaller records, or raise --buffer-size and net.core.wmem_max"
            : "the buffers of both ends bound it; send smaller records, or enlarge them (--buffer-size)"
    }
}
