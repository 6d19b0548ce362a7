// SPDX-License-Identifier: Apache-2.0
//
// Watches the descriptors of all DescriptorSockets: one event loop for the process, started with the first. It only
// counts events and wakes who waits; the calls themselves are made by the application's threads.

import VsockSystem

/// One descriptor that is watched. After ``DescriptorLoop/add(_:)`` it belongs to the loop's thread.
final class DescriptorWatch: PollHandler, @unchecked Sendable {
    // Unchecked: `watch` is touched by the loop's thread only.
    let descriptor: SharedFileDescriptor
    private let waits: WaitPoint
    fileprivate var watch: Watch?

    init(_ descriptor: SharedFileDescriptor, _ waits: WaitPoint) {
        self.descriptor = descriptor
        self.waits = waits
    }

    override func ready(_ events: PollEvents) {
        waits.lock.withLock {
            if !events.isDisjoint(with: [.readable, .readHangUp, .hangUp, .error]) { waits.signal(.readable) }
            if !events.isDisjoint(with: [.writable, .hangUp, .error]) { waits.signal(.writable) }
        }
    }
}

/// See the top of the file.
final class DescriptorLoop: Sendable {
    private static let shared = try? DescriptorLoop()

    private let mailbox: LoopMailbox
    private let thread: WorkerThread

    private init() throws(SystemCallError) {
        let mailbox = try LoopMailbox()
        self.mailbox = mailbox
        thread = try WorkerThread(name: "vsock-sockets") { (try? EventLoop(mailbox: mailbox))?.run() }
    }

    /// Watches a descriptor, edge-triggered: what it is ready for now is the first event.
    static func add(_ entry: DescriptorWatch) {
        shared?.mailbox.submit { loop in
            entry.watch = try? loop.watch(
                entry.descriptor.rawValue, [.readable, .writable, .readHangUp, .edgeTriggered], entry)
        }
    }

    /// Watches no more, and then lets go of the descriptor.
    static func remove(_ entry: DescriptorWatch) {
        shared?.mailbox.submit { loop in
            if let watch = entry.watch { loop.unwatch(watch, entry.descriptor.rawValue) }
            entry.watch = nil
        }
    }
}
