// SPDX-License-Identifier: Apache-2.0
//
// The device's queues, as far as the monitor says: when they run, and which descriptors tell of news (vhost-user.rst,
// "Starting and stopping rings").

import Logging
import VhostUser
import VirtioQueue
import VsockSystem
import VsockWire

extension VhostUserSession {
    /// Starts and stops queues as their states now demand.
    func reconcile() {
        for index in 0..<VsockDevice.QueueIndex.count {
            let state = session.queues[index]
            let queue = queues[index]
            let shouldRun = state.isRunning && device.memory != nil && !queue.isBroken
            if shouldRun, !queue.isRunning {
                startQueue(index, base: queue.pausedBase ?? state.base, isContinued: false)
            } else if !shouldRun, queue.isRunning {
                queue.pausedBase = stopQueue(index)
            }
            if !state.isStarted {
                // Whatever starts it next says where it begins.
                queue.pausedBase = nil
                if queue.isBroken {
                    queue.isBroken = false
                    watchKicks()
                }
            }
        }
    }

    func startQueue(_ index: Int, base: UInt16, isContinued: Bool) {
        let state = session.queues[index]
        guard let memory = device.memory, let addresses = state.addresses else { return }
        do throws(VirtqueueError) {
            let layout = try VirtqueueLayout(
                size: state.size, descriptorTable: addresses.descriptorTable, availableRing: addresses.availableRing,
                usedRing: addresses.usedRing, space: .user, memory: memory)
            let ring = DeviceQueue(
                layout: layout, features: VirtqueueFeatures(negotiated: session.features),
                owner: QueueMemory(memory, inflight), startIndex: base, inflight: inflight?.region(index),
                resubmits: queues[index].resubmitsInflight)
            queues[index].isRunning = true
            queues[index].resubmitsInflight = false
            queues[index].pausedBase = nil
            let features = VsockFeatures(rawValue: session.features)
            device.startQueue(
                index, ring: ring, base: base, isSeqpacketNegotiated: features.contains(.seqpacket),
                isContinued: isContinued,
                awaitsEventQueue: session.queues[VsockDevice.QueueIndex.event].isConfigured)
            log.debug("queue started", metadata: ["queue": "\(index)", "size": "\(state.size)", "base": "\(base)"])
        } catch {
            log.error("queue cannot be used", metadata: ["queue": "\(index)", "error": "\(error)"])
        }
    }

    func stopQueue(_ index: Int) -> UInt16? {
        guard queues[index].isRunning else { return nil }
        queues[index].isRunning = false
        return device.stopQueue(index)
    }

    // MARK: Descriptors of queues

    func setKick(_ queue: Int, _ descriptor: consuming OwnedFileDescriptor?) {
        queues[queue].kick = descriptor
        guard let kick = queues[queue].kick?.rawValue else { return }
        do throws(SystemCallError) {
            // Each write to an eventfd is an edge, so that its count need not be read; a pipe would fill up.
            let drains = EventNotifier.needsDraining(kick)
            queues[queue].kickEvents = drains ? .readable : [.readable, .edgeTriggered]
            queues[queue].kickWatch = try loop.watch(
                kick, kickEvents(queues[queue]), KickHandler(kick, self, queue, drains: drains))
        } catch {
            log.error("kicks cannot be watched", metadata: ["queue": "\(queue)", "error": "\(error)"])
        }
    }

    /// What to look for at a kick descriptor: not for kicks in a pause of them, and not for those of a queue that is broken
    /// until it is set up anew. What the kernel reports unasked, an error, keeps being an edge.
    private func kickEvents(_ queue: Queue) -> PollEvents {
        kickPause.isPaused || queue.isBroken ? queue.kickEvents.subtracting(.readable) : queue.kickEvents
    }

    /// Looks at the kick descriptors, or away from them.
    func watchKicks() {
        for queue in queues {
            guard let watch = queue.kickWatch, let kick = queue.kick?.rawValue else { continue }
            do throws(SystemCallError) {
                try loop.modify(watch, kick, kickEvents(queue))
            } catch {
                log.error("kicks cannot be watched", metadata: ["error": "\(error)"])
            }
        }
    }

    func stopKicks(_ queue: Int) {
        if let watch = queues[queue].kickWatch, let kick = queues[queue].kick?.rawValue { loop.unwatch(watch, kick) }
        queues[queue].kickWatch = nil
        queues[queue].kick = nil
    }

    /// The descriptor that came with a message, to be signalled. It may be a pipe that nobody reads: a monitor must
    /// not be able to stop this thread, which serves other VMs, too.
    func takeNotifier() -> OwnedFileDescriptor? {
        guard let notifier = received.take(at: 0) else { return nil }
        try? DescriptorIO.setNonBlocking(notifier.rawValue)
        return notifier
    }

    fileprivate func kicked(_ queue: Int, _ drained: IOResult) {
        device.kicked(queue)
        kickPause.kicked(vainCount: device.vainKickCount)
        switch drained {
        case .count(0), .failed:
            // A pipe whose writer is gone is readable for ever, and so may other descriptors be.
            log.warning("kick descriptor is dead", metadata: ["queue": "\(queue)"])
            stopKicks(queue)
        case .count, .wouldBlock:
            break
        }
    }
}

/// The driver has made buffers available.
private final class KickHandler: PollHandler {
    private let descriptor: Int32
    private unowned let session: VhostUserSession
    private let queue: Int
    private let drains: Bool

    init(_ descriptor: Int32, _ session: VhostUserSession, _ queue: Int, drains: Bool) {
        self.descriptor = descriptor
        self.session = session
        self.queue = queue
        self.drains = drains
    }

    override func ready(_ events: PollEvents) {
        // What is not an eventfd may have nothing to tell but that.
        let isDead = !drains && !events.isDisjoint(with: [.error, .hangUp])
        session.kicked(queue, drains ? EventNotifier.drain(descriptor) : isDead ? .count(0) : .wouldBlock)
    }
}
