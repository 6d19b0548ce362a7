// SPDX-License-Identifier: Apache-2.0
//
// A device whose host is this process: the guest's connections are sockets of a table.
//
// An application's thread fills the guest's buffers by itself. So the device's queues are shared with its event loop,
// and the table's lock guards them: the loop does everything inside of `exclusively`. Only a queue that is found broken
// is left to the loop.

import Logging
import VirtioQueue
import VsockCore
import VsockSystem
import VsockWire

/// See the top of the file.
final class SocketDeviceHost: DeviceHost, PacketCarrier, @unchecked Sendable {
    // Unchecked: everything mutable is guarded by the table's lock.
    let table: SocketTable
    private let guestCID: VsockAddress.ContextID
    private let mailbox: LoopMailbox
    weak var carrier: LoopTask?
    /// Whether the slots reserved now have room for payload.
    private var reservesPayload = false
    /// Whether the loop has been told of a broken queue.
    private var hasBroken = false

    init(_ table: SocketTable, guestCID: VsockAddress.ContextID, mailbox: LoopMailbox) {
        self.table = table
        self.guestCID = guestCID
        self.mailbox = mailbox
    }

    private var device: VsockDevice? { carrier as? VsockDevice }

    /// Lets `tap` see the packets of the device's queues.
    func setTap(_ tap: (any PacketTap)?) { exclusively { device?.setTap(tap) } }

    // MARK: DeviceHost

    var isDriverReady: Bool {
        get { table.isReady }
        set {
            hasBroken = false
            table.isReady = newValue
            if newValue { table.wake(&table.readyWaiters) }
        }
    }

    var socketEntries: [SocketEntry] { SocketEntry.all(of: table.endpoint) { _ in 0 } }

    var canReceive: Bool { table.endpoint.canReceive }

    var nextDeadline: Instant? { nil }

    var hasOutput: Bool { table.endpoint.hasControlPackets }

    func exclusively<Result>(_ body: () -> Result) -> Result { table.lock.withLock(body) }

    func receive(
        _ header: PacketHeader, marker: SequenceHeader?, payload: Range<Int>, in segments: borrowing SegmentList
    ) {
        segments.withUnsafeBuffer(payload) { table.deliver(header, marker: marker, $0) }
    }

    func flush() {
        guard let buffers = device?.buffers else { return }
        buffers.release()
        if buffers.publish() {
            device?.counters.notifications += 1
            device?.notifier?.notify(queue: VsockDevice.QueueIndex.receive)
        }
        device?.tap?.batchEnded()
    }

    func transmit(into buffers: GuestBuffers) throws(VirtqueueError) -> Bool {
        table.roomFreed()
        return false
    }

    func restart(framing: RecordFraming) { table.restart(framing: framing, isReady: table.isReady) }

    func resetConnections() { table.resetConnections() }

    func expire() {}

    // MARK: PacketCarrier

    /// Linux guests post pages less the header.
    var usualCapacity: Int { 3776 }

    func reaches(_ cid: VsockAddress.ContextID) -> Bool { cid == guestCID }

    func capacity(wanting byteCount: Int) -> Int? {
        guard let device, let buffers = device.buffers, let queue = device.receiveQueue, !device.isStarved, !hasBroken
        else { return nil }
        if let capacity = buffers.nextCapacity, byteCount == 0 || reservesPayload { return capacity }
        buffers.release()
        reservesPayload = byteCount > 0
        do throws(VirtqueueError) {
            while try buffers.reserve(byteCount: byteCount, slotLimit: byteCount == 0 ? 1 : GuestBuffers.slotLimit)
                == nil
            {
                // The guest must see what it has got before it is asked for more.
                flush()
                guard queue.ring.enableKicks() else {
                    device.isStarved = true
                    return nil
                }
                queue.ring.disableKicks()
            }
        } catch {
            hasBroken = true
            mailbox.submit { [weak self] _ in
                self?.exclusively { self?.device?.queueBroke(VsockDevice.QueueIndex.receive, error) }
            }
            return nil
        }
        return buffers.nextCapacity
    }

    func commit(_ header: PacketHeader, _ payload: UnsafeRawBufferPointer) {
        guard let device, let buffers = device.buffers else { return }
        if payload.isEmpty { buffers.commit(header) } else { buffers.commit(header, payload: payload) }
        // Packets of the guest may wait until it has taken replies.
        if device.waitsForReplies, canReceive {
            mailbox.submit { [weak self] loop in
                if let carrier = self?.carrier { loop.schedule(carrier) }
            }
        }
    }
}
