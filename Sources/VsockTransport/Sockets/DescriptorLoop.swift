// SPDX-License-Identifier: Apache-2.0
//
// Watches the descriptors of all DescriptorSockets: one event loop for the process, started with the first. It only
// counts events and wakes who waits; the calls themselves are made by the application's threads.
//
// A socket that closes must give its address free at once, so the loop never keeps a descriptor open. It may be told of
// one that is closed already, and whose number a new file has; but what concerns the old one was submitted before the
// new one could be, so nobody else's watch is taken away.
//
// epoll_wait(2) holds the files that it looks at (Linux: ep_item_poll), and looking at a socket of AF_VSOCK may wait for
// the socket's lock. A close(2) at that moment is not the last one. Who needs the address waits until the loop has let
// go of it.

import Synchronization
import VsockSystem

/// One descriptor that is watched.
final class DescriptorWatch: PollHandler, @unchecked Sendable {
    // Unchecked: `watch` is touched by the loop's thread only, `hasFailed` and `isRemoved` with the lock of `waits`.
    fileprivate let number: Int32
    private let waits: WaitPoint
    fileprivate var watch: Watch?
    /// The kernel does not watch the descriptor: who waited would wait for ever.
    private(set) var hasFailed = false
    private var isRemoved = false
    private let removed = Monitor.Condition()

    fileprivate init(_ number: Int32, _ waits: WaitPoint) {
        self.number = number
        self.waits = waits
    }

    override func ready(_ events: PollEvents) {
        waits.lock.withLock {
            if !events.isDisjoint(with: [.readable, .readHangUp, .hangUp, .error]) { waits.signal(.readable) }
            if !events.isDisjoint(with: [.writable, .hangUp, .error]) { waits.signal(.writable) }
        }
    }

    fileprivate func tellRemoved() {
        waits.lock.withLock {
            isRemoved = true
            removed.signal()
        }
    }

    fileprivate func waitUntilRemoved() {
        waits.lock.lock()
        defer { waits.lock.unlock() }
        while !isRemoved { _ = removed.wait(waits.lock.monitor, deadlineNanoseconds: nil) }
    }

    fileprivate func fail() {
        waits.lock.withLock {
            hasFailed = true
            waits.signalAll()
        }
    }
}

/// See the top of the file.
final class DescriptorLoop: Sendable {
    private static let shared = Mutex<DescriptorLoop?>(nil)

    private let mailbox: LoopMailbox
    private let thread: WorkerThread

    private init() throws(SystemCallError) {
        let mailbox = try LoopMailbox()
        let started = try StartSignal()
        self.mailbox = mailbox
        thread = try WorkerThread(name: "vsock-sockets") {
            do throws(SystemCallError) {
                let loop = try EventLoop(mailbox: mailbox)
                started.signal(nil)
                loop.run()
            } catch {
                started.signal("\(error)")
            }
        }
        // The loop needs one descriptor, and that is all it can fail for.
        if started.wait() != nil { throw SystemCallError(call: "epoll_create1", errno: .tooManyOpenFiles) }
    }

    /// Watches a descriptor, edge-triggered: what it is ready for now is the first event. Throws EMFILE, EAGAIN when the
    /// loop cannot be started.
    static func add(
        _ descriptor: SharedFileDescriptor, _ waits: WaitPoint
    ) throws(SystemCallError) -> DescriptorWatch {
        let loop = try shared.withLock { (shared) throws(SystemCallError) in
            if let shared { return shared }
            let made = try DescriptorLoop()
            shared = made
            return made
        }
        let entry = DescriptorWatch(descriptor.rawValue, waits)
        loop.mailbox.submit { [weak descriptor] loop in
            guard let descriptor else { return }
            do throws(SystemCallError) {
                entry.watch = try loop.watch(
                    entry.number, [.readable, .writable, .readHangUp, .edgeTriggered], entry)
            } catch {
                entry.fail()
            }
            withExtendedLifetime(descriptor) {}
        }
        return entry
    }

    /// Watches no more. To be called while the descriptor is still open.
    static func remove(_ entry: DescriptorWatch) {
        shared.withLock { $0 }?.mailbox.submit { loop in
            if let watch = entry.watch { loop.unwatch(watch, entry.number) }
            entry.watch = nil
            entry.tellRemoved()
        }
    }

    /// As ``remove(_:)``, and waits until the loop does not look at the descriptor any more.
    static func removeAndWait(_ entry: DescriptorWatch) {
        remove(entry)
        entry.waitUntilRemoved()
    }
}
