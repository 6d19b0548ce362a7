// SPDX-License-Identifier: Apache-2.0
//
// What a socket table asks of the thing that takes its packets: a driver, a device, the other half of a loopback. All
// calls are made with the table's lock. A carrier hands what comes in to `SocketTable.deliver`, and calls `roomFreed`
// when there is room after there was none; for both it takes the lock.

import VsockWire

/// Takes a table's packets to the peer.
protocol PacketCarrier: AnyObject {
    /// Payload bytes that the next packet may have, given that `byteCount` are wanted (0 for a packet without payload);
    /// nil when there is no room: then `roomFreed` follows.
    func capacity(wanting byteCount: Int) -> Int?
    /// Takes a packet, for which there is room; `payload` is valid during the call only.
    func commit(_ header: PacketHeader, _ payload: UnsafeRawBufferPointer)
    /// Shows the peer what was committed.
    func flush()
    /// Payload bytes that a packet usually carries, for estimates.
    var usualCapacity: Int { get }
    /// Whether a connection can be made to a context ID.
    func reaches(_ cid: VsockAddress.ContextID) -> Bool
    /// Takes packets that have come, of about `byteCount` bytes, for a caller that does not wait; whether there were any.
    func poll(byteCount: Int) -> Bool
    /// Whether callers take all packets: see ``PolledPackets``.
    var isPolled: Bool { get }
}

extension PacketCarrier {
    func poll(byteCount: Int) -> Bool { false }

    var isPolled: Bool { false }
}
