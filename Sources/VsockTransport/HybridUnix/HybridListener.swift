// SPDX-License-Identifier: Apache-2.0
//
// The sockets `PATH` and `PATH_seqpacket` of one VM. They exist as long as the daemon serves the VM, whether or not
// a front-end is connected: a client that comes while there is no guest is closed at once.

import Logging
import VsockCore
import VsockSystem
import VsockWire

/// Accepts clients and waits for their CONNECT.
final class HybridListener: LoopTask {
    /// When clients wait, the oldest one is closed once it has been silent for so long.
    static let patienceNanoseconds: UInt64 = 1_000_000_000

    private let loop: EventLoop
    private let log: Logger
    private unowned let host: HybridHost
    /// A client that is silent for so long is closed.
    private let clientTimeoutNanoseconds: UInt64
    private struct Entry {
        let listener: UnixListener
        let type: SocketType
        var watch: Watch
    }

    private var entries: [Entry] = []
    /// Oldest first, so that the first has the earliest deadline.
    private var clients: [HybridClient] = []
    /// Descriptors ran out: accepting waits until one is closed.
    private var isStalled = false
    /// There are as many clients as there may be: accepting waits until one has spoken or has lost its place.
    private var isFull = false

    /// Binds both sockets with `mode` and `owner`; none is left behind when the second cannot be bound.
    init(
        _ host: HybridHost, mode: UInt32, owner: FileOwner?, clientTimeoutNanoseconds: UInt64, loop: EventLoop,
        log: Logger
    ) throws(SystemCallError) {
        self.host = host
        self.clientTimeoutNanoseconds = clientTimeoutNanoseconds
        self.loop = loop
        self.log = log
        super.init()
        host.listener = self
        for (path, type) in [(host.path, SocketType.stream), (host.path + "_seqpacket", .seqpacket)] {
            let listener = try UnixListener(
                UnixAddress(path), type: type == .stream ? .stream : .seqpacket, mode: mode, owner: owner)
            let watch = try loop.watch(listener.rawDescriptor, [.readable, .edgeTriggered], Acceptor(self))
            entries.append(Entry(listener: listener, type: type, watch: watch))
        }
    }

    /// Clients that have not said CONNECT.
    var clientCount: Int { clients.count }
    /// Bytes that they have said.
    var partialByteCount: Int { clients.reduce(0) { $0 + $1.partialByteCount } }

    /// Closes the clients and stops listening.
    func stop() {
        for entry in entries { loop.unwatch(entry.watch, entry.listener.rawDescriptor) }
        // Closes the sockets and removes their files.
        entries = []
        for client in clients { client.close(loop) }
        clients = []
        loop.forget(self)
    }

    /// A descriptor has become free.
    func resume() {
        guard isStalled else { return }
        isStalled = false
        loop.schedule(self)
    }

    override func run() -> Bool {
        isFull = false
        for entry in entries { accept(entry.listener, entry.type) }
        updateDeadline()
        return false
    }

    override func deadlinePassed() {
        while let first = clients.first, first.deadline <= loop.now {
            log.debug("client said nothing in time")
            remove(first)
            first.close(loop)
            host.counters.clientsFailed += 1
        }
        if isFull {
            // Looked at anew when accepting; a deadline that has passed must not be set again.
            isFull = false
            loop.schedule(self)
        }
        // Descriptors may have become free elsewhere in the process.
        resume()
        updateDeadline()
    }

    /// A client wants a port of the guest.
    func asked(_ client: HybridClient, type: SocketType, port: UInt32) {
        remove(client)
        guard let descriptor = client.takeDescriptor(loop) else { return }
        host.connectToGuest(descriptor, type: type, port: port)
        updateDeadline()
    }

    /// A client has left, or does not speak the protocol.
    func failed(_ client: HybridClient, _ defect: ConnectCommand.Defect?) {
        if let defect { log.debug("client refused", metadata: ["reason": "\(defect)"]) }
        host.counters.clientsFailed += 1
        remove(client)
        client.close(loop)
        updateDeadline()
    }

    private func remove(_ client: HybridClient) {
        clients.removeAll { $0 === client }
        if isFull { loop.schedule(self) }
    }

    private func updateDeadline() {
        let stalled = isStalled ? loop.now.advanced(byNanoseconds: Self.patienceNanoseconds) : nil
        let full = isFull ? clients.first?.start.advanced(byNanoseconds: Self.patienceNanoseconds) : nil
        loop.setDeadline([clients.first?.deadline, stalled, full].compactMap { $0 }.min(), for: self)
    }

    /// Whether one more client can be taken: perhaps in the place of the oldest, if one waits.
    private func makeRoom(_ listener: UnixListener) -> Bool {
        guard clients.count >= host.limits[.silentClients], let oldest = clients.first else { return true }
        let waiting = try? DescriptorIO.waitUntilReady(
            listener.rawDescriptor, for: .readable, timeoutNanoseconds: 0)
        guard waiting?.isEmpty == false else { return false }
        guard oldest.start.advanced(byNanoseconds: Self.patienceNanoseconds) <= loop.now else {
            isFull = true
            host.limits.reached(.silentClients, now: loop.now)
            return false
        }
        log.debug("silent client closed in favour of a new one")
        host.counters.clientsTurnedAway += 1
        host.limits.reached(.silentClients, now: loop.now)
        remove(oldest)
        oldest.close(loop)
        return true
    }

    private func accept(_ listener: UnixListener, _ type: SocketType) {
        while makeRoom(listener) {
            do throws(SystemCallError) {
                guard let descriptor = try listener.accept() else { break }
                let deadline = loop.now.advanced(byNanoseconds: clientTimeoutNanoseconds)
                let client = HybridClient(
                    descriptor, type: type, listener: self, start: loop.now, deadline: deadline)
                try client.start(loop)
                clients.append(client)
            } catch {
                log.warning("a client waits: \(error)")
                isStalled = true
                break
            }
        }
    }

    /// One of the listening sockets has clients.
    private final class Acceptor: PollHandler {
        private unowned let listener: HybridListener
        init(_ listener: HybridListener) { self.listener = listener }
        override func ready(_ events: PollEvents) { listener.loop.schedule(listener) }
    }
}
