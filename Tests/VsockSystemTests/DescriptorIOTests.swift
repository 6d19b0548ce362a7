// SPDX-License-Identifier: Apache-2.0

import Glibc
import Synchronization
import Testing
import VsockSystem
import VsockTestSupport

@Suite struct DescriptorIOTests {
    @Test("an empty pipe would block, a closed one is at end of file, a bad number fails")
    func readResults() throws {
        let pipe = try DescriptorIO.makePipe(nonBlocking: true)
        var buffer = [UInt8](repeating: 0, count: 8)
        let empty = buffer.withUnsafeMutableBytes { DescriptorIO.read(pipe.readEnd.rawValue, into: $0) }
        #expect(empty == .wouldBlock)
        let wrongEnd = buffer.withUnsafeMutableBytes { DescriptorIO.read(pipe.writeEnd.rawValue, into: $0) }
        #expect(wrongEnd == .failed(.badFileDescriptor))
        let readEnd = pipe.readEnd
        let writeEnd = pipe.writeEnd
        #expect(write("abc", to: writeEnd.rawValue) == .count(3))
        _ = consume writeEnd
        #expect(read(from: readEnd.rawValue) == "abc")
        #expect(try isAtEndOfFile(readEnd.rawValue))
    }

    @Test("segments are gathered and scattered in order")
    func segments() throws {
        let pipe = try DescriptorIO.makePipe(nonBlocking: true)
        let storage = Segments(["he", "", "llo"])
        #expect(DescriptorIO.writev(pipe.writeEnd.rawValue, from: storage.base, count: 3) == .count(5))
        let target = Segments(["....", "...."])
        #expect(DescriptorIO.readv(pipe.readEnd.rawValue, into: target.base, count: 2) == .count(5))
        #expect(target.text == "hello...")
    }

    @Test("a record keeps its bounds, and one that is too long is marked")
    func records() throws {
        let pair = try UnixSocket.makePair(.seqpacket, nonBlocking: true)
        let record = Segments(["rec", "ord"])
        #expect(DescriptorIO.sendMessage(pair.first.rawValue, from: record.base, count: 2) == .count(6))
        #expect(DescriptorIO.sendMessage(pair.first.rawValue, from: record.base, count: 1) == .count(3))
        let target = Segments(["....", "...."])
        let whole = DescriptorIO.receiveMessage(pair.second.rawValue, into: target.base, count: 2)
        #expect(whole == .message(count: 6, flags: []))
        #expect(target.text == "record..")
        let next = DescriptorIO.receiveMessage(pair.second.rawValue, into: target.base, count: 2)
        #expect(next == .message(count: 3, flags: []))
        #expect(DescriptorIO.sendMessage(pair.first.rawValue, from: record.base, count: 2) == .count(6))
        let cut = DescriptorIO.receiveMessage(pair.second.rawValue, into: target.base, count: 1)
        #expect(cut == .message(count: 4, flags: .truncated))
        let none = DescriptorIO.receiveMessage(pair.second.rawValue, into: target.base, count: 1)
        #expect(none == .wouldBlock)
    }

    @Test("peek with the truncation flag gives a record's full length and leaves it")
    func peekLength() throws {
        let pair = try UnixSocket.makePair(.seqpacket, nonBlocking: true)
        #expect(send("0123456789", to: pair.first.rawValue) == .count(10))
        var buffer = [UInt8](repeating: 0, count: 4)
        let length = buffer.withUnsafeMutableBytes {
            DescriptorIO.receive(pair.second.rawValue, into: $0, flags: [.peek, .truncated])
        }
        #expect(length == .count(10))
        #expect(read(from: pair.second.rawValue) == "0123456789")
    }

    @Test("a send to a closed socket is EPIPE without the signal")
    func brokenPipe() async {
        await #expect(processExitsWith: .success) {
            let pair = try UnixSocket.makePair(.stream, nonBlocking: true)
            let first = pair.first
            let second = pair.second
            _ = consume second
            let bytes = Segments(["x"])
            #expect(send("x", to: first.rawValue) == .failed(.brokenPipe))
            #expect(DescriptorIO.sendMessage(first.rawValue, from: bytes.base, count: 1) == .failed(.brokenPipe))
        }
    }

    @Test("a batch receives and sends many records with one call")
    func batch() throws {
        let pair = try UnixSocket.makePair(.seqpacket, nonBlocking: true)
        let records = [Segments(["a"]), Segments(["b", "c"]), Segments(["defgh"])]
        var outgoing = MessageBatch(capacity: 3)
        for record in records {
            let fits = outgoing.append(record.base, count: record.count)
            #expect(fits)
        }
        let full = outgoing.append(records[0].base, count: 1)
        #expect(!full)
        #expect(outgoing.send(pair.first.rawValue, from: 1) == .count(2))
        let targets = (0..<4).map { _ in Segments(["...."]) }
        var incoming = MessageBatch(capacity: 4)
        for target in targets { _ = incoming.append(target.base, count: 1) }
        #expect(incoming.receive(pair.second.rawValue) == .count(2))
        #expect(incoming.byteCount(at: 0) == 2)
        #expect(incoming.byteCount(at: 1) == 4)
        #expect(incoming.flags(at: 0) == [])
        #expect(incoming.flags(at: 1) == .truncated)
        #expect(targets[0].text == "bc..")
        #expect(targets[1].text == "defg")
        #expect(incoming.receive(pair.second.rawValue) == .wouldBlock)
        incoming.removeAll()
        #expect(incoming.count == 0)
        withExtendedLifetime((records, targets)) {}
    }

    @Test("the wait for one descriptor returns readiness, or nothing at its deadline")
    func waitUntilReady() throws {
        let pipe = try DescriptorIO.makePipe(nonBlocking: true)
        let readEnd = pipe.readEnd.rawValue
        #expect(try DescriptorIO.waitUntilReady(readEnd, for: .readable, timeoutNanoseconds: 0) == [])
        let start = MonotonicClock.now()
        #expect(try DescriptorIO.waitUntilReady(readEnd, for: .readable, timeoutNanoseconds: 1_500_000) == [])
        #expect(MonotonicClock.now() - start >= 1_500_000)
        #expect(write("x", to: pipe.writeEnd.rawValue) == .count(1))
        #expect(try DescriptorIO.waitUntilReady(readEnd, for: .readable, timeoutNanoseconds: nil) == .readable)
        #expect(try DescriptorIO.waitUntilReady(1 << 20, for: .readable, timeoutNanoseconds: 0) == .error)
    }

    @Test("an interrupted read is repeated")
    func interruptedRead() async {
        await #expect(processExitsWith: .success) {
            var action = sigaction()
            action.__sigaction_handler.sa_handler = { _ in Interruptions.count.add(1, ordering: .relaxed) }
            #expect(sigaction(SIGUSR1, &action, nil) == 0)  // no SA_RESTART
            // The first access, which initialises it, must not be the signal handler's.
            Interruptions.count.store(0, ordering: .relaxed)
            let pipe = try DescriptorIO.makePipe(nonBlocking: false)
            let readEnd = pipe.readEnd.rawValue
            let thread = try WorkerThread(name: "reader") {
                // Worker threads do not take signals; this one shall.
                var usr1 = sigset_t()
                sigemptyset(&usr1)
                sigaddset(&usr1, SIGUSR1)
                pthread_sigmask(SIG_UNBLOCK, &usr1, nil)
                Interruptions.reader.store(UInt(pthread_self()), ordering: .releasing)
                let text = read(from: readEnd)
                Interruptions.sawText.store(text == "done", ordering: .releasing)
            }
            let end = MonotonicClock.now() + testDeadline
            while Interruptions.count.load(ordering: .relaxed) < 200, MonotonicClock.now() < end {
                let reader = Interruptions.reader.load(ordering: .acquiring)
                if reader != 0 { pthread_kill(pthread_t(reader), SIGUSR1) }
                sched_yield()
            }
            let interruptions = Interruptions.count.load(ordering: .relaxed)
            #expect(interruptions >= 200)
            #expect(write("done", to: pipe.writeEnd.rawValue) == .count(4))
            thread.join()
            let sawText = Interruptions.sawText.load(ordering: .acquiring)
            #expect(sawText)
        }
    }

    @Test("O_NONBLOCK is set and cleared")
    func nonBlockingMode() throws {
        let pipe = try DescriptorIO.makePipe(nonBlocking: false)
        let readEnd = pipe.readEnd.rawValue
        #expect(fcntl(readEnd, F_GETFL) & O_NONBLOCK == 0)
        try DescriptorIO.setNonBlocking(readEnd)
        #expect(fcntl(readEnd, F_GETFL) & O_NONBLOCK != 0)
        try DescriptorIO.setNonBlocking(readEnd, false)
        #expect(fcntl(readEnd, F_GETFL) & O_NONBLOCK == 0)
        #expect(!DescriptorIO.isTerminal(readEnd))
    }

    @Test("socket options are read back as the kernel keeps them")
    func socketOptions() throws {
        let pair = try UnixSocket.makePair(.seqpacket, nonBlocking: true)
        let descriptor = pair.first.rawValue
        try SocketOptions.setSendBuffer(descriptor, byteCount: 20_000)
        #expect(try SocketOptions.sendBuffer(descriptor) == 40_000)
        try SocketOptions.setReceiveBuffer(descriptor, byteCount: 30_000)
        #expect(try SocketOptions.receiveBuffer(descriptor) == 60_000)
        #expect(try SocketOptions.takeError(descriptor) == nil)
        try SocketOptions.shutdown(descriptor, .send)
        #expect(read(from: pair.second.rawValue) == "")
        let error = failure { () throws(SystemCallError) in try SocketOptions.setSendBuffer(-1, byteCount: 1) }
        #expect(error?.description == "setsockopt: Bad file descriptor")
    }
}

enum Interruptions {
    static let count = Atomic<Int>(0)
    static let reader = Atomic<UInt>(0)
    static let sawText = Atomic<Bool>(false)
}

/// Memory in pieces, with the iovec list that describes it.
final class Segments {
    let base: UnsafeMutablePointer<iovec>
    let count: Int
    private let bytes: UnsafeMutableRawBufferPointer

    init(_ parts: [String]) {
        count = parts.count
        base = .allocate(capacity: parts.count)
        let all = Array(parts.joined().utf8)
        bytes = .allocate(byteCount: max(all.count, 1), alignment: 1)
        bytes.copyBytes(from: all)
        var offset = 0
        for (index, part) in parts.enumerated() {
            let length = part.utf8.count
            (base + index).initialize(to: iovec(iov_base: bytes.baseAddress.map { $0 + offset }, iov_len: length))
            offset += length
        }
    }

    var text: String { String(decoding: bytes, as: UTF8.self) }

    deinit {
        base.deallocate()
        bytes.deallocate()
    }
}
