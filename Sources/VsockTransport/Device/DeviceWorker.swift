// SPDX-License-Identifier: Apache-2.0

import Logging
import VsockSystem

/// One thread with an event loop that serves some of a daemon's VMs.
final class DeviceWorker: Sendable {

    private let mailbox: LoopMailbox
    private let thread: WorkerThread
    private let started: StartSignal

    /// Starts the thread, whose loop has `mailbox`; ``waitUntilReady()`` tells how that went.
    init(
        _ configurations: [VsockDeviceConfiguration], siblings: SiblingDirectory, mailbox: LoopMailbox, log: Logger
    ) throws(SystemCallError) {
        let started = try StartSignal()
        self.mailbox = mailbox
        self.started = started
        thread = try WorkerThread(name: "vsock-device") {
            Self.serve(mailbox, started) { (loop, servers) throws(SystemCallError) in
                for configuration in configurations {
                    var log = log
                    log[metadataKey: "cid"] = "\(configuration.guestCID)"
                    let links = siblings.links(of: configuration.guestCID)
                    servers.append(try VhostUserServer(configuration, links: links, loop: loop, log: log))
                }
            }
        }
    }

    /// Starts the thread for one VM whose host is the caller's.
    init(
        _ configuration: VsockDeviceConfiguration, host: any DeviceHost & Sendable, mailbox: LoopMailbox, log: Logger
    ) throws(SystemCallError) {
        let started = try StartSignal()
        self.mailbox = mailbox
        self.started = started
        thread = try WorkerThread(name: "vsock-device") {
            Self.serve(mailbox, started) { (loop, servers) throws(SystemCallError) in
                servers.append(try VhostUserServer(configuration, host: host, loop: loop, log: log))
            }
        }
    }

    /// Waits until the worker serves its VMs; the reason when it cannot.
    func waitUntilReady() -> String? { started.wait() }

    /// Asks the worker to end.
    func stop() { mailbox.submit { $0.stop() } }

    /// Waits until the worker has ended.
    func join() { thread.join() }

    private static func serve(
        _ mailbox: LoopMailbox, _ started: StartSignal,
        _ addServers: (EventLoop, inout [VhostUserServer]) throws(SystemCallError) -> Void
    ) {
        var servers: [VhostUserServer] = []
        do throws(SystemCallError) {
            let loop = try EventLoop(mailbox: mailbox)
            try addServers(loop, &servers)
            started.signal(nil)
            loop.run()
            for server in servers { server.stop() }
        } catch {
            // The loop and what it watches hold each other.
            for server in servers { server.stop() }
            servers = []
            started.signal("\(error)")
        }
    }
}
