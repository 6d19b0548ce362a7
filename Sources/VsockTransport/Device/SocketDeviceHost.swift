// SPDX-License-Identifier: Apache-2.0
//
// A device whose host is this process: the guest's connections are sockets of a table.
//
// An application's thread fills the guest's buffers by itself, and one that does not wait takes the guest's packets: see
// PolledPackets. So the device's queues are shared with its event loop, and the table's lock guards them: the loop does
// everything inside of `exclusively`. Only a queue that is found broken is left to the loop.

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
    /// Takes itself away when it stops. An object with a weak reference counts all others to it more slowly.
    unowned var carrier: LoopTask?
    /// The device that is `carrier`, as long as its driver is there: it owns this.
    @exclusivity(unchecked) private var device: VsockDevice?
    /// Whether the slots reserved now have room for payload.
    private var reservesPayload = false
    /// Whether the loop has been told of a broken queue.
    private var hasBroken = false
    @exclusivity(unchecked) private var polling = PolledPackets()
    /// Whether the loop looks from time to time whether the polling goes on. Belongs to the loop.
    private lazy var pollWatch = PollWatch(self)

    init(_ table: SocketTable, guestCID: VsockAddress.ContextID, mailbox: LoopMailbox) {
        self.table = table
        self.guestCID = guestCID
        self.mailbox = mailbox
    }

    /// Lets `tap` see the packets of the device's queues.
    func setTap(_ tap: (any PacketTap)?) { exclusively { (carrier as? VsockDevice)?.setTap(tap) } }

    // MARK: DeviceHost

    var isDriverReady: Bool {
        get { table.isReady }
        set {
            hasBroken = false
            polling.end()
            device = newValue ? carrier as? VsockDevice : nil
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
            device?.frontend?.notify(queue: VsockDevice.QueueIndex.receive)
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
            broke(VsockDevice.QueueIndex.receive, error)
            return nil
        }
        return buffers.nextCapacity
    }

    private func broke(_ queue: Int, _ error: VirtqueueError) {
        hasBroken = true
        mailbox.submit { [weak self] _ in self?.exclusively { self?.device?.queueBroke(queue, error) } }
    }

    private func scheduleDevice() {
        mailbox.submit { [weak self] loop in
            if let carrier = self?.carrier { loop.schedule(carrier) }
        }
    }

    func commit(_ header: PacketHeader, _ payload: UnsafeRawBufferPointer) {
        guard let device, let buffers = device.buffers else { return }
        if payload.isEmpty { buffers.commit(header) } else { buffers.commit(header, payload: payload) }
        // Packets of the guest may wait until it has taken replies.
        if device.waitsForReplies, canReceive { scheduleDevice() }
    }

    // MARK: Polling

    var isPolled: Bool { polling.isPolled }

    func poll(byteCount: Int) -> Bool {
        guard let device, !hasBroken, !device.waitsForReplies else { return false }
        let wasPolled = polling.isPolled
        do throws(VirtqueueError) {
            guard try device.pollTransmitQueue(byteCount: byteCount) else {
                if polling.end() { awaitKick(device) }
                return false
            }
        } catch {
            polling.end()
            broke(VsockDevice.QueueIndex.transmit, error)
            return false
        }
        polling.found()
        if !polling.isPolled {
            awaitKick(device)
        } else if !wasPolled {
            device.transmitQueue?.ring.disableKicks()
            mailbox.submit { [weak self] loop in self?.pollWatch.start(loop) }
        }
        return true
    }

    /// The kick that was asked for has come, or comes no more.
    private func awaitKick(_ device: VsockDevice) {
        if device.transmitQueue?.ring.enableKicks() == true { scheduleDevice() }
    }

    /// The loop looks; whether it is to do so again.
    fileprivate func lookAtPolling() -> Bool {
        exclusively {
            let wasPolled = polling.isPolled
            guard !polling.look() else { return true }
            if wasPolled, let device { awaitKick(device) }
            return false
        }
    }
}

/// The loop's looks at whether callers still take the guest's packets.
private final class PollWatch: LoopTask {
    private unowned let host: SocketDeviceHost
    private weak var loop: EventLoop?

    init(_ host: SocketDeviceHost) { self.host = host }

    func start(_ loop: EventLoop) {
        self.loop = loop
        loop.setDeadline(loop.now.advanced(byNanoseconds: PolledPackets.lookNanoseconds), for: self)
    }

    override func deadlinePassed() {
        if let loop, host.lookAtPolling() { start(loop) }
    }
}
