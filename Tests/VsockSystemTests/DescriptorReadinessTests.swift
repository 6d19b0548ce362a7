// SPDX-License-Identifier: Apache-2.0

import Glibc
import Testing
import VsockSystem
import VsockTestSupport

@Suite struct DescriptorReadinessTests {
    @Test("of several descriptors those that are ready are told, and the others are not")
    func several() throws {
        let first = try DescriptorIO.makePipe(nonBlocking: true)
        let second = try DescriptorIO.makePipe(nonBlocking: true)
        var requests = [
            PollRequest(first.readEnd.rawValue, .readable), PollRequest(second.readEnd.rawValue, .readable),
        ]
        #expect(try DescriptorIO.waitUntilReady(&requests, timeoutNanoseconds: 0) == 0)
        #expect(requests.allSatisfy { $0.ready.isEmpty })
        #expect(write("x", to: second.writeEnd.rawValue) == .count(1))
        requests.append(PollRequest(first.writeEnd.rawValue, .writable))
        #expect(try DescriptorIO.waitUntilReady(&requests, timeoutNanoseconds: testDeadline) == 2)
        #expect(requests.map(\.ready) == [[], .readable, .writable])
        #expect(read(from: second.readEnd.rawValue) == "x")
        #expect(try DescriptorIO.waitUntilReady(&requests, timeoutNanoseconds: testDeadline) == 1)
        #expect(requests.map(\.ready) == [[], [], .writable])
    }

    @Test("files are always ready, an end that is gone hangs up, and no descriptor at all is an error")
    func unusual() throws {
        let null = try FileSystem.open("/dev/null")
        let pipe = try DescriptorIO.makePipe(nonBlocking: true)
        let reader = pipe.readEnd
        let writer = pipe.writeEnd
        _ = consume writer
        var requests = [
            PollRequest(null.rawValue, .readable), PollRequest(reader.rawValue, .readable), PollRequest(-1, .readable),
            PollRequest(1_000_000, .readable),
        ]
        // A negative number is left out, by poll(2)'s own rule.
        #expect(try DescriptorIO.waitUntilReady(&requests, timeoutNanoseconds: nil) == 3)
        #expect(requests.map(\.ready) == [.readable, .hangUp, [], .error])
    }

    @Test("with nothing to wait for the time passes")
    func none() throws {
        var requests: [PollRequest] = []
        let start = MonotonicClock.now()
        #expect(try DescriptorIO.waitUntilReady(&requests, timeoutNanoseconds: 3_000_000) == 0)
        #expect(MonotonicClock.now() - start >= 3_000_000)
    }

    @Test("a pipe that is writable takes its atomic size without blocking")
    func atomicSize() throws {
        let pipe = try DescriptorIO.makePipe(nonBlocking: true)
        let piece = String(repeating: "x", count: DescriptorIO.pipeAtomicByteCount)
        #expect(write("y", to: pipe.writeEnd.rawValue) == .count(1))
        var total = 1
        while try !DescriptorIO.waitUntilReady(pipe.writeEnd.rawValue, for: .writable, timeoutNanoseconds: 0).isEmpty {
            #expect(write(piece, to: pipe.writeEnd.rawValue) == .count(piece.utf8.count))
            total += piece.utf8.count
            try #require(total < 64 << 20)
        }
        #expect(total > piece.utf8.count)
    }
}
