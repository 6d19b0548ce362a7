// SPDX-License-Identifier: Apache-2.0
//
// The devices of a daemon without its threads: each worker's loop turns when the caller says so. Together with a
// simulated kernel (VsockSystem/Simulation) whole systems run on one thread, the same way for the same calls. What is
// left out is the vhost-user session: the caller hands over memory and rings that a session would have mapped.

import Logging
import VirtioQueue
import VsockCore
import VsockSystem
import VsockWire

/// Tells the driver's side of a simulated VM what its device says.
package protocol SimulatedDriver: AnyObject {
    /// The device has signalled the queue's call descriptor.
    func called(queue: Int)
    /// The device has found the queue broken, and has stopped.
    func queueBroken(_ queue: Int)
}

/// What a device still holds; all zero when nothing is connected.
package struct DeviceCensus: Equatable, Sendable {
    /// Connections of the endpoints: to the host and to siblings.
    package var connections = 0
    /// Sockets of host programs, those that linger among them.
    package var hostSockets = 0
    /// Clients that have not said CONNECT.
    package var silentClients = 0
    /// Halves of connections between guests.
    package var siblingSockets = 0
    /// Requests of siblings that wait.
    package var deferredRequests = 0

    /// Nothing.
    package init() {}
}

/// See the top of the file. To be used by one thread, inside of `Simulation.$kernel.withValue`.
package final class SimulatedDaemon {
    private struct Machine {
        let device: VsockDevice
        let host: HybridHost
        let siblings: SiblingHost?
        let listener: HybridListener
        let worker: Int
        let calls: Calls
    }

    private let loops: [EventLoop]
    private var machines: [Machine] = []

    /// Devices for some VMs on `workerCount` loops.
    package init(_ configurations: [VsockDeviceConfiguration], workerCount: Int) throws(SystemCallError) {
        let log = Logger(label: "simulation") { _ in SwiftLogNoOpLogHandler() }
        var mailboxes: [LoopMailbox] = []
        for _ in 0..<workerCount { mailboxes.append(try LoopMailbox()) }
        var loops: [EventLoop] = []
        for mailbox in mailboxes { loops.append(try EventLoop(mailbox: mailbox)) }
        self.loops = loops
        let directory = SiblingDirectory(
            configurations.enumerated().map { ($0.element, mailboxes[$0.offset % workerCount]) })
        for (index, configuration) in configurations.enumerated() {
            let worker = index % workerCount
            let device = try VsockDevice(
                configuration, links: directory.links(of: configuration.guestCID), loop: loops[worker], log: log)
            let router = device.hostSide as? RoutingHost
            guard let host = (router?.host ?? device.hostSide) as? HybridHost, let listener = host.listener else {
                continue
            }
            let calls = Calls()
            device.frontend = calls
            machines.append(
                Machine(
                    device: device, host: host, siblings: router?.siblings, listener: listener, worker: worker,
                    calls: calls))
        }
    }

    /// Resets the guests' connections and removes the sockets, as ``DeviceDaemon/stop()`` does.
    package func stop() {
        for loop in loops {
            loop.stop()
            loop.turn(timeoutNanoseconds: 0)
        }
        for machine in machines { machine.device.stop() }
        machines = []
    }

    // MARK: Loops

    /// Number of loops.
    package var workerCount: Int { loops.count }

    /// Lets a loop do what is ready to be done.
    package func turn(worker: Int) { loops[worker].turn(timeoutNanoseconds: 0) }

    /// Whether a loop has work that waits for nothing.
    package func hasWork(worker: Int) -> Bool { loops[worker].hasScheduledTasks }

    /// When the first of the loops has something to do although nothing happens.
    package var nextDeadline: Instant? { loops.compactMap(\.nextDeadline).min() }

    // MARK: Drivers

    /// A driver has set up the queues 0 and 1 in `memory` and starts, or goes on from where it was paused.
    package func startDriver(
        _ machine: Int, _ driver: any SimulatedDriver, memory: GuestMemory,
        layouts: (receive: VirtqueueLayout, transmit: VirtqueueLayout), features: UInt64,
        bases: (receive: UInt16, transmit: UInt16) = (0, 0)
    ) {
        let device = machines[machine].device
        machines[machine].calls.driver = driver
        device.setMemory(memory)
        let queues = [(layouts.receive, bases.receive), (layouts.transmit, bases.transmit)]
        for (index, (layout, base)) in queues.enumerated() {
            device.startQueue(
                index,
                ring: DeviceQueue(
                    layout: layout, features: VirtqueueFeatures(negotiated: features), owner: memory, startIndex: base),
                base: base, isSeqpacketNegotiated: VsockFeatures(rawValue: features).contains(.seqpacket),
                isContinued: false, awaitsEventQueue: false)
        }
    }

    /// The monitor stops both queues, to go on later; returns where.
    package func pauseDriver(_ machine: Int) -> (receive: UInt16, transmit: UInt16) {
        let device = machines[machine].device
        return (device.stopQueue(0), device.stopQueue(1))
    }

    /// The monitor has left.
    package func removeDriver(_ machine: Int) {
        machines[machine].calls.driver = nil
        machines[machine].device.driverLeft()
        machines[machine].device.setMemory(nil)
    }

    /// The driver has kicked a queue.
    package func kick(_ machine: Int, queue: Int) { machines[machine].device.kicked(queue) }

    /// What a device holds.
    package func census(_ machine: Int) -> DeviceCensus {
        let host = machines[machine].host
        var census = DeviceCensus()
        census.connections = host.endpoint.connectionCount
        census.hostSockets = host.lingering.count
        for case _? in host.sockets { census.hostSockets += 1 }
        census.silentClients = machines[machine].listener.clientCount
        guard let siblings = machines[machine].siblings else { return census }
        census.connections += siblings.endpoint.connectionCount
        for case _? in siblings.sockets { census.siblingSockets += 1 }
        census.deferredRequests = siblings.deferred.count
        return census
    }

    private final class Calls: VsockDeviceFrontend {
        weak var driver: (any SimulatedDriver)?
        func notify(queue: Int) { driver?.called(queue: queue) }
        func reportBroken(queue: Int, _ error: VirtqueueError) { driver?.queueBroken(queue) }
        /// The driver shares this process's memory.
        func memoryLost() {}
    }
}
