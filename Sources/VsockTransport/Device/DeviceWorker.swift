// SPDX-License-Identifier: Apache-2.0

import Logging
import VsockCore
import VsockSystem

/// One thread with an event loop that serves some of a daemon's VMs.
final class DeviceWorker: Sendable {

    private let mailbox: LoopMailbox
    private let served = ServedDevices()
    private let thread: WorkerThread
    private let started: StartSignal

    /// Starts the thread, whose loop has `mailbox`; ``waitUntilReady()`` tells how that went.
    init(
        _ configurations: [VsockDeviceConfiguration], siblings: SiblingDirectory, mailbox: LoopMailbox,
        options: WorkerOptions, log: Logger
    ) throws(SystemCallError) {
        let started = try StartSignal()
        self.mailbox = mailbox
        self.started = started
        thread = try WorkerThread(name: "vsock-device") { [served] in
            Self.serve(mailbox, options, started, served) { (loop, servers) throws(SystemCallError) in
                for configuration in configurations {
                    let log = log.bounded(guestCID: configuration.guestCID)
                    let links = siblings.links(of: configuration.guestCID)
                    servers.append(try VhostUserServer(configuration, links: links, loop: loop, log: log))
                }
            }
        }
    }

    /// Starts the thread for one VM whose host is the caller's.
    init(
        _ configuration: VsockDeviceConfiguration, host: any DeviceHost & Sendable, mailbox: LoopMailbox,
        options: WorkerOptions, log: Logger
    ) throws(SystemCallError) {
        let started = try StartSignal()
        self.mailbox = mailbox
        self.started = started
        thread = try WorkerThread(name: "vsock-device") { [served] in
            Self.serve(mailbox, options, started, served) { (loop, servers) throws(SystemCallError) in
                let log = log.bounded(guestCID: configuration.guestCID)
                servers.append(try VhostUserServer(configuration, host: host, loop: loop, log: log))
            }
        }
    }

    /// Waits until the worker serves its VMs; the reason when it cannot.
    func waitUntilReady() -> String? { started.wait() }

    /// The sockets of a VM; nil when it is none of this worker's, or there is no answer in time.
    func table(of guestCID: UInt32, timeoutNanoseconds: UInt64) -> DeviceTable? {
        mailbox.ask(timeoutNanoseconds: timeoutNanoseconds) { [served] _ in served.table(of: guestCID) } ?? nil
    }

    /// Asks the worker to end.
    func stop() { mailbox.submit { $0.stop() } }

    /// Waits until the worker has ended.
    func join() { thread.join() }

    private static func serve(
        _ mailbox: LoopMailbox, _ options: WorkerOptions, _ started: StartSignal, _ served: ServedDevices,
        _ addServers: (EventLoop, inout [VhostUserServer]) throws(SystemCallError) -> Void
    ) {
        var servers: [VhostUserServer] = []
        do throws(SystemCallError) {
            let loop = try EventLoop(mailbox: mailbox, busyPollNanoseconds: options.busyPollNanoseconds)
            try addServers(loop, &servers)
            served.devices = servers.map(\.device)
            started.signal(nil)
            if options.followsPeers { loop.placement = ThreadPlacement(now: loop.now.nanoseconds) }
            loop.run()
            served.devices = []
            for server in servers { server.stop() }
        } catch {
            // The loop and what it watches hold each other.
            for server in servers { server.stop() }
            servers = []
            started.signal("\(error)")
        }
    }
}

/// The sockets of one VM.
public struct DeviceTable: Sendable {
    /// `PATH` of the host's Unix sockets.
    public let path: String
    /// Whether the guest's driver is there.
    public let isReady: Bool
    /// Its connections.
    public let sockets: [SocketEntry]
    /// How its limits stand.
    public let limits: [LimitEntry]
}

/// The devices of one worker.
private final class ServedDevices: @unchecked Sendable {
    // Unchecked: it is touched on the worker's thread only.
    var devices: [VsockDevice] = []

    func table(of guestCID: UInt32) -> DeviceTable? {
        guard let device = devices.first(where: { $0.configuration.guestCID == guestCID }) else { return nil }
        return DeviceTable(
            path: device.configuration.hybridPath, isReady: device.isReady,
            sockets: device.hostSide.exclusively { device.hostSide.socketEntries },
            limits: device.limitEntries)
    }
}
