// SPDX-License-Identifier: Apache-2.0
//
// One Unix socket of a host program, joined to one vsock connection of the guest. Shutdowns and ends cross like this:
//
//      host program                          guest
//      shutdown(SHUT_WR): EOF             -> SHUTDOWN(send)
//      close: EOF and hang-up             -> SHUTDOWN(both), RST after the guest's, or after 8 s
//      does not read: EPIPE               -> SHUTDOWN(receive)
//      EOF, once the backlog has left     <- SHUTDOWN(send)
//      EPIPE                              <- SHUTDOWN(receive)
//      closed, once the backlog has left  <- SHUTDOWN(both), RST
//
// The descriptor is watched edge-triggered for reading, so that reading costs no epoll_ctl(2); writing is watched
// only while there is a backlog, because AF_UNIX reports an edge for every message that the other side reads.

import VsockCore
import VsockSystem
import VsockWire

/// See the top of the file. Belongs to one ``HybridHost``, which does all that needs more than this socket.
final class HostSocket: PollHandler {
    /// Where a socket stands.
    enum Phase: Equatable {
        /// The guest has been asked; a client waits for its `OK`.
        case connecting
        /// Data may cross.
        case open
        /// The guest is done with the connection, the backlog is not delivered yet.
        case lingering
        /// The descriptor is no longer watched.
        case closed
    }

    let descriptor: OwnedFileDescriptor
    let type: SocketType
    let id: ConnectionID
    unowned let host: HybridHost
    var watch: Watch?
    @exclusivity(unchecked) var phase: Phase
    /// Data may be waiting in the socket.
    @exclusivity(unchecked) var isReadable = true
    /// The last write was not refused.
    @exclusivity(unchecked) var isWritable = true
    /// The host program has shut its sending side or closed.
    @exclusivity(unchecked) var sawReadHangUp = false
    /// Nothing more is read from the host program.
    @exclusivity(unchecked) var isReadClosed = false
    /// Nothing more is written to the host program.
    @exclusivity(unchecked) var isWriteClosed = false
    /// The guest sends no more: shut the writing side when the backlog has left.
    @exclusivity(unchecked) var mustShutWriting = false
    /// Whether the socket stands in the host's queue of sockets with data for the guest.
    @exclusivity(unchecked) var isQueued = false
    /// Bytes that the next read is likely to find; decides how many of the guest's buffers are taken for it.
    @exclusivity(unchecked) var expectedByteCount = 4096
    /// Records that the next read is likely to find, of one packet each; 1 when they are larger.
    @exclusivity(unchecked) var expectedRecordCount = 1
    /// Largest record that the socket can carry: its send buffer.
    @exclusivity(unchecked) var maximumRecordByteCount = 0
    /// Bytes that are consumed already and have not left: the first of a stream, or of the open record in the backlog.
    @exclusivity(unchecked) var consumedAheadByteCount = 0
    @exclusivity(unchecked) var backlog = Backlog()
    /// Records that have been read and not sent: they did not fit into the guest's buffers, or the credit.
    @exclusivity(unchecked) var staged = Backlog()
    /// Bytes of the first of them that have been sent.
    @exclusivity(unchecked) var stagedOffset = 0

    init(
        _ descriptor: consuming OwnedFileDescriptor, type: SocketType, id: ConnectionID, phase: Phase,
        host: HybridHost
    ) {
        self.descriptor = descriptor
        self.type = type
        self.id = id
        self.phase = phase
        self.host = host
    }

    override func ready(_ events: PollEvents) { host.ready(self, events) }

    /// Bytes that have been read and not sent.
    var stagedByteCount: Int { staged.byteCount - stagedOffset }

    /// Forgets them.
    func discardStaged() {
        staged.removeAll()
        stagedOffset = 0
    }

    /// Events to watch for.
    var interest: PollEvents {
        let base: PollEvents = [.readable, .readHangUp, .edgeTriggered]
        return isWritable ? base : base.union(.writable)
    }
}
