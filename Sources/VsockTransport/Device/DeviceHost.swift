// SPDX-License-Identifier: Apache-2.0
//
// What a device asks of its host: the side of the VM's connections that is not the guest. The file system (HybridHost)
// or the sockets of this process (SocketDeviceHost).

import VirtioQueue
import VsockCore
import VsockWire

/// The host's side of one device. All calls come from the device's event loop, inside of ``exclusively(_:)`` where the
/// host is shared with other threads.
protocol DeviceHost: AnyObject {
    /// Runs when there may be something for the guest.
    var carrier: LoopTask? { get set }
    /// Whether the guest's driver is there.
    var isDriverReady: Bool { get set }
    /// The connections that there are.
    var socketEntries: [SocketEntry] { get }
    /// Whether another packet can be received.
    var canReceive: Bool { get }
    /// Whether other threads take the guest's packets: see ``PolledPackets``.
    var isPolled: Bool { get }
    /// When ``expire()`` wants to be called; nil when the host has a timer of its own.
    var nextDeadline: Instant? { get }
    /// Whether the guest's buffers are needed.
    var hasOutput: Bool { get }
    /// Runs `body`, which touches the device's queues, while no other thread does.
    func exclusively<Result>(_ body: () -> Result) -> Result
    /// Takes one packet from the guest; its payload lies in `segments`, which stay valid until ``flush()``.
    func receive(
        _ header: PacketHeader, marker: SequenceHeader?, payload: Range<Int>, in segments: borrowing SegmentList)
    /// A batch of packets is about to leave: gives the guest credit back for them that it waits for.
    func returnCreditEarly(into buffers: GuestBuffers) throws(VirtqueueError)
    /// A batch of packets has ended: what is left of it leaves.
    func flush()
    /// Fills the guest's buffers; true when it ran out of them.
    func transmit(into buffers: GuestBuffers) throws(VirtqueueError) -> Bool
    /// The guest's driver has gone, or a new one has come: all connections end.
    func restart(framing: RecordFraming)
    /// Ends all connections with a reset to the guest.
    func resetConnections()
    /// Timers of connections that have run out.
    func expire()
}

extension DeviceHost {
    var isPolled: Bool { false }

    func returnCreditEarly(into buffers: GuestBuffers) throws(VirtqueueError) {}
}
