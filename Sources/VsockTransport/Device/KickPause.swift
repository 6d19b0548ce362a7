// SPDX-License-Identifier: Apache-2.0
//
// A driver that follows the rules kicks when it has added something that the device has not seen, so that kicks in vain
// are rare and never many in a row. Each costs the thread a look at the queues, and cuts what it does for other VMs into
// smaller batches. Where they come in a row, the session looks away from the kick descriptors for a while:
//
//      watched --- as many kicks in vain as the limit ---> paused
//         ^                                                  |
//         +-------------- the time is over ------------------+
//
// Nothing is lost by it: an eventfd that was written to is readable, and to watch it again reports that at once.

import VsockCore
import VsockSystem

/// See the top of the file. Belongs to the loop's thread.
final class KickPause: LoopTask {
    /// Kicks in vain, in a row, that any driver may make: it raced the device, or has just started its queues.
    static let vainKickLimit = 8
    /// How long a pause takes: not long for a guest, and long beside the look that ends it.
    static let nanoseconds: UInt64 = 200_000

    private let loop: EventLoop
    private unowned let session: VhostUserSession
    /// Whether the session is to look away.
    private(set) var isPaused = false

    init(_ loop: EventLoop, _ session: VhostUserSession) {
        self.loop = loop
        self.session = session
    }

    /// The driver has kicked, so often in vain since the device has last found something.
    func kicked(vainCount: Int) {
        guard vainCount > Self.vainKickLimit, !isPaused else { return }
        isPaused = true
        session.watchKicks()
        loop.setDeadline(loop.now.advanced(byNanoseconds: Self.nanoseconds), for: self)
    }

    override func deadlinePassed() {
        isPaused = false
        session.watchKicks()
    }

    /// The session has ended.
    func stop() { loop.forget(self) }
}
