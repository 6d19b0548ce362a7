// SPDX-License-Identifier: Apache-2.0

import Glibc
import Testing
import VsockSystem
import VsockTestSupport

@Suite struct PollerTests {
    @Test("a level-triggered descriptor is reported as long as it is ready, an edge-triggered one once per change")
    func triggers() throws {
        let poller = try Poller()
        let level = try EventNotifier()
        let edge = try EventNotifier()
        try poller.add(level.rawDescriptor, .readable, token: 1)
        try poller.add(edge.rawDescriptor, [.readable, .edgeTriggered], token: .max)
        var events = PollEventBuffer(capacity: 8)
        #expect(try poller.wait(into: &events, timeoutNanoseconds: 0) == 0)
        level.signal()
        edge.signal()
        #expect(try poller.wait(into: &events, timeoutNanoseconds: testDeadline) == 2)
        #expect(tokens(events) == [1, .max])
        #expect(events[0].events == .readable)
        #expect(try poller.wait(into: &events, timeoutNanoseconds: 0) == 1)
        #expect(tokens(events) == [1])
        edge.signal()
        #expect(try poller.wait(into: &events, timeoutNanoseconds: 0) == 2)
        #expect(level.drain())
        #expect(!level.drain())
        #expect(try poller.wait(into: &events, timeoutNanoseconds: 0) == 0)
        #expect(edge.drain())
    }

    @Test("modify re-arms an edge-triggered descriptor and changes the token; remove stops it")
    func modifyAndRemove() throws {
        let poller = try Poller()
        let notifier = try EventNotifier()
        let raw = notifier.rawDescriptor
        var events = PollEventBuffer(capacity: 1)
        try poller.add(raw, [.readable, .edgeTriggered], token: 7)
        notifier.signal()
        #expect(try poller.wait(into: &events, timeoutNanoseconds: 0) == 1)
        #expect(try poller.wait(into: &events, timeoutNanoseconds: 0) == 0)
        try poller.modify(raw, [.readable, .edgeTriggered], token: 8)
        #expect(try poller.wait(into: &events, timeoutNanoseconds: 0) == 1)
        #expect(events[0] == PollEvent(token: 8, events: .readable))
        try poller.modify(raw, [], token: 8)
        #expect(try poller.wait(into: &events, timeoutNanoseconds: 0) == 0)
        try poller.remove(raw)
        #expect(failure { () throws(SystemCallError) in try poller.remove(raw) }?.errno == .noSuchFile)
        #expect(failure { () throws(SystemCallError) in try poller.modify(raw, [], token: 0) }?.errno == .noSuchFile)
        try poller.add(raw, .writable, token: 9)
        let twice = failure { () throws(SystemCallError) in try poller.add(raw, .writable, token: 9) }
        #expect(twice?.errno == .fileExists)
    }

    @Test("a wait returns no more events than the buffer holds, and the rest next time")
    func capacity() throws {
        let poller = try Poller()
        var notifiers: [EventNotifier] = []
        for token in 0..<5 {
            let notifier = try EventNotifier()
            notifier.signal()
            try poller.add(notifier.rawDescriptor, [.readable, .edgeTriggered], token: UInt64(token))
            notifiers.append(notifier)
        }
        var events = PollEventBuffer(capacity: 3)
        var seen: [UInt64] = []
        #expect(try poller.wait(into: &events, timeoutNanoseconds: 0) == 3)
        seen += tokens(events)
        #expect(try poller.wait(into: &events, timeoutNanoseconds: 0) == 2)
        seen += tokens(events)
        #expect(seen.sorted() == [0, 1, 2, 3, 4])
        withExtendedLifetime(notifiers) {}
    }

    @Test(
        "a half-closed peer is a read hang-up, a closed one a hang-up", arguments: [UnixSocketType.stream, .seqpacket])
    func hangUps(type: UnixSocketType) throws {
        let pair = try UnixSocket.makePair(type, nonBlocking: true)
        let first = pair.first
        let second = pair.second
        let poller = try Poller()
        try poller.add(first.rawValue, [.readable, .readHangUp], token: 1)
        var events = PollEventBuffer(capacity: 4)
        try SocketOptions.shutdown(second.rawValue, .send)
        #expect(try poller.wait(into: &events, timeoutNanoseconds: testDeadline) == 1)
        #expect(events[0].events == [.readable, .readHangUp])
        _ = consume second
        #expect(try poller.wait(into: &events, timeoutNanoseconds: testDeadline) == 1)
        #expect(events[0].events == [.readable, .readHangUp, .hangUp])
    }

    @Test("a timeout is never shorter than asked, down to microseconds", arguments: [50_000, 999_999, 3_000_001])
    func timeout(nanoseconds: UInt64) throws {
        let poller = try Poller()
        var events = PollEventBuffer(capacity: 1)
        let start = MonotonicClock.now()
        #expect(try poller.wait(into: &events, timeoutNanoseconds: nanoseconds) == 0)
        #expect(MonotonicClock.now() - start >= nanoseconds)
    }

    @Test(
        "a wait with the longest timeout, and with none, ends with a signal of another thread",
        arguments: [UInt64.max, nil])
    func wakesUp(timeout: UInt64?) throws {
        let poller = try Poller()
        let notifier = try EventNotifier()
        try poller.add(notifier.rawDescriptor, .readable, token: 3)
        let thread = try WorkerThread(name: "signaller") { notifier.signal() }
        var events = PollEventBuffer(capacity: 1)
        #expect(try poller.wait(into: &events, timeoutNanoseconds: timeout) == 1)
        #expect(events[0].token == 3)
        thread.join()
        thread.join()
    }

    @Test("pollers nest")
    func nested() throws {
        let outer = try Poller()
        let inner = try Poller()
        let notifier = try EventNotifier()
        try inner.add(notifier.rawDescriptor, .readable, token: 1)
        try outer.add(inner.rawDescriptor, .readable, token: 2)
        var events = PollEventBuffer(capacity: 1)
        #expect(try outer.wait(into: &events, timeoutNanoseconds: 0) == 0)
        notifier.signal()
        #expect(try outer.wait(into: &events, timeoutNanoseconds: testDeadline) == 1)
        #expect(events[0].token == 2)
    }

    @Test("a regular file cannot be watched, and the error says which call failed")
    func regularFile() throws {
        let memory = try SharedMemory(name: "file", byteCount: 1)
        let poller = try Poller()
        let error = failure { () throws(SystemCallError) in
            try poller.add(memory.rawDescriptor, .readable, token: 0)
        }
        #expect(error?.description == "epoll_ctl: Operation not permitted")
    }

    private func tokens(_ events: borrowing PollEventBuffer) -> [UInt64] {
        var result: [UInt64] = []
        for index in 0..<events.count { result.append(events[index].token) }
        return result.sorted()
    }
}

@Suite struct EventNotifierTests {
    @Test("many signals are one wake-up")
    func coalesces() throws {
        let notifier = try EventNotifier()
        #expect(!notifier.drain())
        for _ in 0..<1000 { notifier.signal() }
        #expect(notifier.drain())
        #expect(!notifier.drain())
    }

    @Test("a full eventfd is signalled without blocking and without an error")
    func fullCounter() throws {
        let notifier = try EventNotifier()
        var most = UInt64.max - 1
        #expect(Glibc.write(notifier.rawDescriptor, &most, 8) == 8)
        #expect(EventNotifier.signal(notifier.rawDescriptor) == nil)
        #expect(notifier.drain())
    }

    @Test("a pipe is signalled and drained like an eventfd, also when it is full, and tells when its writer goes")
    func pipes() throws {
        let pipe = try DescriptorIO.makePipe(nonBlocking: true)
        let readEnd = pipe.readEnd
        let writeEnd = pipe.writeEnd
        #expect(EventNotifier.drain(readEnd.rawValue) == .wouldBlock)
        #expect(EventNotifier.signal(writeEnd.rawValue) == nil)
        #expect(EventNotifier.drain(readEnd.rawValue) == .count(8))
        for _ in 0..<20_000 { #expect(EventNotifier.signal(writeEnd.rawValue) == nil) }
        guard case .count(let count) = EventNotifier.drain(readEnd.rawValue) else { throw TestFailure() }
        // The capacity of a pipe, which is less for users who have many.
        #expect(count >= 4096 && count < 20_000 * 8)
        #expect(EventNotifier.drain(readEnd.rawValue) == .wouldBlock)
        _ = consume writeEnd
        #expect(try isAtEndOfFile(readEnd.rawValue))
        #expect(EventNotifier.drain(readEnd.rawValue) == .count(0))
    }

    @Test("a pipe without a reader reports EPIPE, and SIGPIPE does not end the process once it is ignored")
    func brokenPipe() async {
        await #expect(processExitsWith: .success) {
            SignalReceiver.ignoreBrokenPipe()
            let pipe = try DescriptorIO.makePipe(nonBlocking: true)
            let writeEnd = pipe.writeEnd
            let readEnd = pipe.readEnd
            _ = consume readEnd
            #expect(EventNotifier.signal(writeEnd.rawValue) == .brokenPipe)
        }
    }

    @Test("a bad descriptor is an error")
    func badDescriptor() {
        #expect(EventNotifier.signal(-1) == .badFileDescriptor)
        #expect(EventNotifier.drain(-1) == .failed(.badFileDescriptor))
    }
}
