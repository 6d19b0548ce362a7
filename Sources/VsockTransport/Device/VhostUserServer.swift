// SPDX-License-Identifier: Apache-2.0
//
// The vhost-user socket of one VM. One monitor at a time; when it has left, the next is served. The host's sockets
// stay meanwhile.

import Logging
import VsockCore
import VsockSystem

/// Joins one VM's device to whatever monitor connects.
final class VhostUserServer: PollHandler, MonitorListener {
    let device: VsockDevice
    private let loop: EventLoop
    private let log: Logger
    private let listener: UnixListener
    private var watch: Watch?
    private var session: VhostUserSession?
    /// Descriptors have run out.
    private var isStalled = false
    private let retry = Retry()

    /// Creates the device's sockets and listens for a monitor. Without a `host` of the caller's, the host is the file
    /// system, and `links` are the other guests.
    init(
        _ configuration: VsockDeviceConfiguration, host: (any DeviceHost)? = nil, links: SiblingLinks? = nil,
        loop: EventLoop, log: Logger
    ) throws(SystemCallError) {
        self.loop = loop
        self.log = log
        listener = try UnixListener(
            UnixAddress(configuration.socketPath), type: .stream, mode: configuration.socketMode,
            owner: configuration.socketOwner)
        if let host {
            device = VsockDevice(configuration, host: host, loop: loop, log: log)
        } else {
            device = try VsockDevice(configuration, links: links, loop: loop, log: log)
        }
        super.init()
        retry.server = self
        device.monitorPace.listener = self
        do throws(SystemCallError) {
            watch = try loop.watch(listener.rawDescriptor, [.readable], self)
        } catch {
            device.stop()
            throw error
        }
    }

    /// Resets the guest's connections, closes and removes the sockets.
    func stop() {
        device.hostSide.exclusively {
            device.stop()
            session?.stop()
            session = nil
        }
        loop.forget(retry)
        pause()
    }

    private func pause() {
        if let watch { loop.unwatch(watch, listener.rawDescriptor) }
        watch = nil
    }

    /// Looks at the listening socket, unless that has to wait.
    private func resume() {
        guard watch == nil, !isStalled, !device.monitorPace.isPaused else { return }
        do throws(SystemCallError) {
            watch = try loop.watch(listener.rawDescriptor, [.readable], self)
        } catch {
            retryLater(error)
        }
    }

    /// Descriptors have run out, perhaps elsewhere in the process: the monitor waits in the socket's backlog, and the
    /// loop must not find it there again and again.
    private func retryLater(_ error: SystemCallError) {
        log.error("a monitor cannot be served now", metadata: ["error": "\(error)"])
        isStalled = true
        pause()
        loop.setDeadline(loop.now.advanced(byNanoseconds: 1_000_000_000), for: retry)
    }

    private final class Retry: LoopTask {
        weak var server: VhostUserServer?
        override func deadlinePassed() {
            server?.isStalled = false
            server?.resume()
        }
    }

    func monitorPaceChanged() {
        // The monitor that is there may have left, and comes before the next one.
        session?.monitorPaceChanged()
        if device.monitorPace.isPaused { pause() } else { resume() }
    }

    override func ready(_ events: PollEvents) { device.monitorPace.charge { accept() } }

    private func accept() {
        do throws(SystemCallError) {
            guard let descriptor = try listener.accept() else { return }
            if let session, session.hasMonitorLeft {
                // It waited in the backlog, or has said more than there was a turn for.
                log.info("monitor disconnected")
                device.hostSide.exclusively { session.stop() }
                self.session = nil
            }
            guard session == nil else {
                log.warning("a second monitor was turned away: one is connected")
                return
            }
            log.info("monitor connected")
            session = try VhostUserSession(descriptor, device: device, loop: loop, log: log) { [weak self] in
                self?.session = nil
            }
        } catch {
            retryLater(error)
        }
    }
}
