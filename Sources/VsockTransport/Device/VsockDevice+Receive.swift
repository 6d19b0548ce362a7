// SPDX-License-Identifier: Apache-2.0
//
// Packets to the guest: the driver's receive queue. The guest's kicks are wanted only while something waits for
// buffers.

import VirtioQueue
import VsockCore
import VsockSystem

extension VsockDevice {
    /// How often a guest that posts buffers as fast as they are filled has them filled before other VMs of the thread
    /// have their turn.
    private static var roundLimit: Int { 4 }

    /// Hands the guest what there is for it, as far as its buffers go.
    func processReceiveQueue() {
        guard let buffers, let queue = receiveQueue, !isStarved else { return }
        do throws(VirtqueueError) {
            queue.ring.disableKicks()
            for _ in 0..<Self.roundLimit {
                guard try hostSide.transmit(into: buffers) else { break }
                publish(buffers)
                guard queue.ring.enableKicks() else {
                    isStarved = true
                    return
                }
                queue.ring.disableKicks()
            }
        } catch {
            publish(buffers)
            return queueBroke(QueueIndex.receive, error)
        }
        publish(buffers)
    }

    /// Gives the guest credit for a batch of packets that is about to leave; false when its queue was broken, and the
    /// batch has left already.
    func returnCreditEarly() -> Bool {
        guard let buffers, !isStarved else { return true }
        do throws(VirtqueueError) {
            try hostSide.returnCreditEarly(into: buffers)
        } catch {
            hostSide.flush()
            publish(buffers)
            queueBroke(QueueIndex.receive, error)
            return false
        }
        publish(buffers)
        return true
    }

    private func publish(_ buffers: GuestBuffers) {
        if buffers.takesPayload() { alternation.sawPayload(.toGuest) }
        guard buffers.publish() else { return }
        counters.notifications += 1
        frontend?.notify(queue: QueueIndex.receive)
    }
}
