// SPDX-License-Identifier: Apache-2.0
//
// One half of a connection between two guests. Each half is a connection of its own VM's endpoint, with the other
// guest's address as the local one, and lives on its VM's thread:
//
//      guest A  <-- virtqueues -->  half  ==== messages ====  half  <-- virtqueues -->  guest B
//                              credit of A                  credit of B
//
//      A                           messages                           B
//      REQUEST                  -> request                         -> REQUEST
//      RESPONSE                 <- accepted                        <- RESPONSE
//      RST, at once             <- refused                         <- RST, silence for 2 s
//      RW                       -> payload, once per batch         -> RW, as buffers and credit allow
//      credit                   <- consumed, when it has left
//      SHUTDOWN(receive)        -> shutdown                        -> SHUTDOWN(receive)
//      SHUTDOWN(send)           -> shutdown, behind the payload    -> SHUTDOWN(send), when all has left
//      SHUTDOWN(both)           -> shutdown                        -> SHUTDOWN(both), when all has left
//      RST                      <- closed
//      RST                      -> closed                          -> SHUTDOWN(both), when all has left

import VsockCore
import VsockWire

/// See the top of the file. Belongs to the ``SiblingHost`` of its VM; the other half only names it in messages.
final class SiblingSocket {
    /// Where a half stands.
    enum Phase: Equatable {
        /// Its guest has asked; the other guest has not answered.
        case requested
        /// Its guest has been asked.
        case connecting
        /// Data may cross.
        case open
        /// It is over for this half.
        case closed
    }

    let type: SocketType
    var phase: Phase
    /// The connection of this VM's endpoint; nil before the guest has been asked.
    var id: ConnectionID?
    /// The other half, as long as it listens.
    var peer: SiblingSocket?
    /// The way to the other half.
    var route: SiblingRoute?
    /// Whether the half stands in the queue of those with data for the guest.
    var isQueued = false

    // From the other guest to this one.

    /// What waits for this guest.
    var queue = ParcelQueue()
    /// Bytes of the record under way to this guest that have not left.
    var unsentOfRecord = 0
    /// Directions that the other guest has given up.
    var peerShutdown: ShutdownFlags = []
    /// The guest takes no more: what comes for it is thrown away.
    var isDiscarding = false

    // From this guest to the other one.

    /// The largest record that the other half was told this guest takes.
    var announcedRecordLimit = 0
    /// Bytes handed over of the record that goes on.
    var openRecordByteCount = 0
    /// Of these, bytes that were consumed before they have left: see `SiblingHost.consumeOpenRecord`.
    var consumedOfOpenRecord = 0
    /// Records handed over that have bytes which have not left.
    var bytesUnderWay = RecordConsumption()
    /// Records handed over that have not left.
    var recordsUnderWay = 0

    init(type: SocketType, phase: Phase, peer: SiblingSocket? = nil) {
        self.type = type
        self.phase = phase
        self.peer = peer
    }
}
