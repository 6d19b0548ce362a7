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
    /// Clients that are accepted, listened to or closed before other VMs of the thread have their turn. One costs about
    /// as much as 8 KiB of payload.
    static let turnClientCount = 16

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
    /// All have the same patience, so that the first has the earliest deadline.
    private var clients = ClientQueue()
    /// Clients that have said something, or have left, and have not been looked at.
    private var readyClients: [HybridClient] = []
    /// Descriptors ran out: accepting waits until one is closed.
    private var isStalled = false
    /// There are as many clients as there may be: accepting waits until one has spoken or has lost its place.
    private var isFull = false
    private var failures = RatePerSecond()

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
    /// Clients that have failed in the second at hand.
    var failureCount: Int { failures.count(at: loop.now) }
    /// Bytes that clients have said.
    var partialByteCount: Int {
        var (count, next) = (0, clients.first)
        while let client = next {
            count += client.partialByteCount
            next = client.newer
        }
        return count
    }

    /// Closes the clients and stops listening.
    func stop() {
        for entry in entries { loop.unwatch(entry.watch, entry.listener.rawDescriptor) }
        // Closes the sockets and removes their files.
        entries = []
        while let client = clients.first { drop(client) }
        readyClients = []
        loop.forget(self)
    }

    /// A descriptor has become free.
    func resume() {
        guard isStalled else { return }
        isStalled = false
        loop.schedule(self)
    }

    override func run() -> Bool {
        var budget = Self.turnClientCount
        while budget > 0, let first = clients.first, first.deadline <= loop.now {
            log.debug("client said nothing in time")
            fail(first)
            budget -= 1
        }
        serveReady(&budget)
        isFull = false
        for entry in entries { accept(entry.listener, entry.type, &budget) }
        updateDeadline()
        return budget == 0
    }

    override func deadlinePassed() {
        // Descriptors may have become free elsewhere in the process.
        isStalled = false
        loop.schedule(self)
    }

    // MARK: From a client

    /// There is something to read from a client.
    func ready(_ client: HybridClient) {
        guard !client.isReady else { return }
        client.isReady = true
        readyClients.append(client)
        loop.schedule(self)
    }

    /// A client wants a port of the guest.
    func asked(_ client: HybridClient, type: SocketType, port: UInt32) {
        clients.remove(client)
        guard let descriptor = client.takeDescriptor(loop) else { return }
        host.connectToGuest(descriptor, type: type, port: port)
    }

    /// A client has left, or does not speak the protocol.
    func failed(_ client: HybridClient, _ defect: ConnectCommand.Defect?) {
        if let defect { log.debug("client refused", metadata: ["reason": "\(defect)"]) }
        fail(client)
    }

    // MARK: Parts of a turn

    private func serveReady(_ budget: inout Int) {
        let count = min(budget, readyClients.count)
        for client in readyClients[..<count] {
            client.isReady = false
            client.read()
        }
        readyClients.removeFirst(count)
        budget -= count
    }

    private func fail(_ client: HybridClient) {
        host.counters.clientsFailed += 1
        countFailure()
        drop(client)
    }

    private func countFailure() {
        failures.add(at: loop.now)
        if failures.count(at: loop.now) == host.limits[.failedClients] {
            host.limits.reached(.failedClients, now: loop.now)
        }
    }

    private func drop(_ client: HybridClient) {
        clients.remove(client)
        client.close(loop)
        isStalled = false
    }

    private func updateDeadline() {
        let patience = Self.patienceNanoseconds
        let stalled = isStalled ? loop.now.advanced(byNanoseconds: patience) : nil
        let full = isFull ? clients.first?.start.advanced(byNanoseconds: patience) : nil
        let slowed = mustSlowDown ? failures.end : nil
        loop.setDeadline([clients.first?.deadline, stalled, full, slowed].compactMap { $0 }.min(), for: self)
    }

    /// So many clients have failed that the next ones wait until the second is over.
    private var mustSlowDown: Bool { failureCount >= host.limits[.failedClients] }

    /// Whether one more client can be taken: perhaps in the place of the oldest, if one waits.
    private func makeRoom(_ listener: UnixListener) -> Bool {
        guard !mustSlowDown else { return false }
        guard clients.count >= host.limits[.silentClients], let oldest = clients.first else { return true }
        let waiting = try? DescriptorIO.waitUntilReady(
            listener.rawDescriptor, for: .readable, timeoutNanoseconds: 0)
        guard waiting?.isEmpty == false else { return false }
        host.limits.reached(.silentClients, now: loop.now)
        guard oldest.start.advanced(byNanoseconds: Self.patienceNanoseconds) <= loop.now else {
            isFull = true
            return false
        }
        log.debug("silent client closed in favour of a new one")
        host.counters.clientsTurnedAway += 1
        countFailure()
        drop(oldest)
        return true
    }

    private func accept(_ listener: UnixListener, _ type: SocketType, _ budget: inout Int) {
        while budget > 0, !isStalled, makeRoom(listener) {
            do throws(SystemCallError) {
                guard let descriptor = try listener.accept() else { break }
                budget -= 1
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
