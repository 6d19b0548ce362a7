// SPDX-License-Identifier: Apache-2.0
//
// Devices for any number of VMs in one process: one event loop per core at most, each VM on one of them.

import Logging
import VsockSystem

/// Why a daemon cannot start: one line that names the thing.
public struct DeviceDaemonError: Error, CustomStringConvertible {
    /// The line.
    public let description: String

    init(_ description: String) { self.description = description }
}

/// Serves vsock devices until it is stopped.
public final class DeviceDaemon: Sendable {
    private let workers: [DeviceWorker]
    private let captures: DeviceCaptures
    /// The VMs' context IDs, in the order in which they were given.
    public let guestCIDs: [UInt32]

    /// Creates the sockets of all VMs and starts to serve them, on at most `workerLimit` threads.
    /// - Throws: what is wrong with the first VM that cannot be served; nothing is left behind then.
    public init(
        _ configurations: [VsockDeviceConfiguration], workerLimit: Int,
        options: WorkerOptions = WorkerOptions(), log: Logger
    ) throws(DeviceDaemonError) {
        try Self.validate(configurations)
        guestCIDs = configurations.map(\.guestCID)
        do throws(SystemCallError) {
            var configurations = configurations
            captures = try DeviceCaptures(opening: &configurations, log: log)
            let count = max(1, min(workerLimit, configurations.count))
            workers = try Self.startWorkers(count, configurations, options, log)
        } catch {
            throw DeviceDaemonError("\(error)")
        }
        for worker in workers {
            if let failure = worker.waitUntilReady() {
                stop()
                throw DeviceDaemonError(failure)
            }
        }
    }

    /// Resets the guests' connections, removes the sockets, ends the captures, and waits until all is done.
    public func stop() {
        for worker in workers { worker.stop() }
        for worker in workers { worker.join() }
        captures.finish()
    }

    /// The sockets of a VM, to be asked for by any thread but those of the daemon; nil when there is no such VM, or no
    /// answer in time.
    public func table(of guestCID: UInt32, timeoutNanoseconds: UInt64) -> DeviceTable? {
        guard let index = guestCIDs.firstIndex(of: guestCID) else { return nil }
        return workers[index % workers.count].table(of: guestCID, timeoutNanoseconds: timeoutNanoseconds)
    }

    private static func startWorkers(
        _ count: Int, _ configurations: [VsockDeviceConfiguration], _ options: WorkerOptions, _ log: Logger
    ) throws(SystemCallError) -> [DeviceWorker] {
        var mailboxes: [LoopMailbox] = []
        for _ in 0..<count { mailboxes.append(try LoopMailbox()) }
        let siblings = SiblingDirectory(
            configurations.enumerated().map { ($0.element, mailboxes[$0.offset % count]) })
        var workers: [DeviceWorker] = []
        do throws(SystemCallError) {
            for index in 0..<count {
                let mine = configurations.enumerated().filter { $0.offset % count == index }.map(\.element)
                workers.append(
                    try DeviceWorker(
                        mine, siblings: siblings, mailbox: mailboxes[index], options: options, log: log))
            }
        } catch {
            for worker in workers {
                worker.stop()
                worker.join()
            }
            throw error
        }
        return workers
    }

    private static func validate(_ configurations: [VsockDeviceConfiguration]) throws(DeviceDaemonError) {
        var seenCIDs: Set<UInt32> = []
        var seenPaths: Set<String> = []
        for vm in configurations {
            guard vm.guestCID > 2, vm.guestCID != .max else {
                throw DeviceDaemonError(
                    "guest-cid \(vm.guestCID) is reserved: use 3 to 4294967294")
            }
            guard seenCIDs.insert(vm.guestCID).inserted else {
                throw DeviceDaemonError("guest-cid \(vm.guestCID) is given to two VMs: each needs its own")
            }
            guard vm.queueSize > 0, vm.queueSize <= 32768, vm.queueSize & (vm.queueSize - 1) == 0 else {
                throw DeviceDaemonError("queue-size \(vm.queueSize) is not a power of two up to 32768")
            }
            for path in [vm.socketPath, vm.hybridPath, vm.hybridPath + "_seqpacket"] {
                guard seenPaths.insert(path).inserted else {
                    throw DeviceDaemonError("\(path) is used twice: each socket needs its own path")
                }
                do throws(SystemCallError) {
                    _ = try UnixAddress(path)
                } catch {
                    throw DeviceDaemonError("\(error)")
                }
            }
        }
    }
}
