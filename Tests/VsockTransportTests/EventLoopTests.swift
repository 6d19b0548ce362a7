// SPDX-License-Identifier: Apache-2.0

import Testing

@testable import VsockTransport

@Suite("Event loop")
struct EventLoopTests {
    private final class Task: LoopTask {
        var runCount = 0
        override func run() -> Bool {
            runCount += 1
            return false
        }
    }

    @Test("forgets a task that ends: one that was to run is not kept, and may be scheduled again elsewhere")
    func forget() throws {
        let loop = try EventLoop(mailbox: LoopMailbox())
        weak var ended: Task?
        do {
            let task = Task()
            ended = task
            loop.schedule(task)
            loop.setDeadline(loop.now, for: task)
            loop.forget(task)
            #expect(!task.isScheduled && task.runCount == 0)
        }
        #expect(ended == nil, "the loop keeps a task that has ended")
    }
}
