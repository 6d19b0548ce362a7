// SPDX-License-Identifier: Apache-2.0
//
// Events for the guest: virtio 1.3 "Socket Device / Device Events" (Linux: virtio_vsock_event_handle). The one event
// that there is goes to a driver that has run before, with a device that is gone: this process was killed and started
// again, or the monitor has come back. Its connections ended with that device. Those that send are reset packet by
// packet; the event ends the others, too. QEMU keeps the event queue to itself; there only the resets tell.

import Logging
import VirtioQueue
import VsockCore
import VsockWire

extension VsockDevice {
    /// Hands the guest the event that is owed, as soon as it has posted a buffer for it.
    func sendEvents() {
        guard owesTransportReset, let queue = eventQueue, let memory else { return }
        do throws(VirtqueueError) {
            queue.ring.disableKicks()
            repeat {
                while owesTransportReset, try sendTransportReset(queue, memory) {}
            } while owesTransportReset && queue.ring.enableKicks()
            queue.ring.publishUsed()
        } catch {
            return queueBroke(QueueIndex.event, error)
        }
        guard queue.ring.needsNotification() else { return }
        counters.notifications += 1
        frontend?.notify(queue: QueueIndex.event)
    }

    /// Uses one buffer; false when there is none.
    private func sendTransportReset(_ queue: RunningQueue, _ memory: GuestMemory) throws(VirtqueueError) -> Bool {
        var segments = SegmentList(capacity: Self.eventSegmentLimit)
        switch try queue.ring.next(memory: memory, into: &segments) {
        case .empty, .full:
            return false
        case .malformed(let head):
            counters.malformedChains += 1
            queue.ring.addUsed(head: head, writtenByteCount: 0)
        case .chain(let chain):
            // An event has its buffer to itself; one that is cut to pieces is of no use to any driver.
            guard let first = chain.writable.first.map({ segments[$0] }), first.count >= DeviceEvent.byteCount else {
                counters.malformedChains += 1
                queue.ring.addUsed(head: chain.head, writtenByteCount: 0)
                return true
            }
            DeviceEvent.transportReset.write(
                to: UnsafeMutableRawBufferPointer(start: first.base, count: first.count))
            queue.ring.addUsed(head: chain.head, writtenByteCount: UInt32(DeviceEvent.byteCount))
            owesTransportReset = false
            log.info("the guest is told that its connections have ended")
        }
        return true
    }

    /// Linux posts one descriptor for each event.
    private static var eventSegmentLimit: Int { 16 }
}
