// SPDX-License-Identifier: Apache-2.0

import Logging
import VsockCore
import VsockSystem
import VsockWire

/// A vsock device in this process: its program is the host of a VM whose monitor connects to a vhost-user socket, and
/// its sockets are context ID 2 for the guest.
public final class SocketDevice: Sendable {
    private let host: SocketDeviceHost
    private let worker: DeviceWorker

    /// Creates the vhost-user socket and serves it. `configuration.hybridPath` is not used.
    public init(
        _ configuration: VsockDeviceConfiguration, reservesLowPorts: Bool = false, log: Logger
    ) throws(DeviceDaemonError) {
        let guest = VsockAddress.ContextID(rawValue: configuration.guestCID)
        guard guest.isGuest else {
            throw DeviceDaemonError("guest-cid \(configuration.guestCID) is reserved: use 3 to 4294967294")
        }
        let table = SocketTable(configuration.endpoint, isReady: false, reservesLowPorts: reservesLowPorts)
        // Its peer is this process.
        var options = WorkerOptions()
        options.followsPeers = false
        do throws(SystemCallError) {
            let mailbox = try LoopMailbox()
            host = SocketDeviceHost(table, guestCID: guest, mailbox: mailbox)
            table.carrier = host
            worker = try DeviceWorker(
                configuration, host: host, mailbox: mailbox, options: options, log: log)
        } catch {
            table.carrier = nil
            throw DeviceDaemonError("\(error)")
        }
        if let failure = worker.waitUntilReady() {
            worker.join()
            table.carrier = nil
            throw DeviceDaemonError(failure)
        }
    }

    deinit { stop() }

    /// A new socket.
    public func makeSocket(_ type: SocketType) -> any ConnectibleSocket { host.table.makeSocket(type) }

    /// Lets `tap` see every packet from now on, in the place of the configuration's; nil for nobody.
    public func setTap(_ tap: (any PacketTap)?) { host.setTap(tap) }

    /// Blocks until all connections have ended, those that linger after a close too, or the time has passed.
    public func waitForClosed(timeoutNanoseconds: UInt64) {
        host.table.waitForClosed(timeoutNanoseconds: timeoutNanoseconds)
    }

    /// Resets the guest's connections, removes the vhost-user socket, and waits until that is done. All sockets fail.
    public func stop() {
        worker.stop()
        worker.join()
        host.table.lock.withLock {
            host.table.fail()
            host.table.carrier = nil
        }
    }
}
