// SPDX-License-Identifier: Apache-2.0
//
// Who reaches whom among the guests of a daemon, how connections between them end, and that a guest which does not
// read or answer holds up nobody else.

import Testing
import VsockCore
import VsockSystem
import VsockWire

@testable import VsockTransport

@Suite("Siblings: reach, ends and backpressure")
struct SiblingEndTests {
    @Test("four guests in two overlapping groups: those that share one reach each other, others are refused at once")
    func groups() throws {
        let groups: [Set<String>] = [["a"], ["a", "b"], ["b"], ["c"]]
        let daemon = try SiblingDaemon(groups)
        let guests = try (3...6).map { try daemon.guest($0) }
        for guest in guests { try guest.sockets.listen(.stream, port: 7) }
        for (from, client) in guests.enumerated() {
            let done = Done()
            let others = try guests.enumerated().filter { $0.offset != from }.map { try $0.element.serve(until: done) }
            for (to, server) in guests.enumerated() where to != from {
                let isSibling = !groups[from].isDisjoint(with: groups[to])
                let failure = try client.failure(.stream, to: server.cid, port: 7)
                #expect(failure == (isSibling ? nil : .connectionReset), "\(client.cid) to \(server.cid)")
            }
            // Nobody has these: itself, a CID of no VM.
            #expect(try client.failure(.stream, to: client.cid, port: 7) == .connectionReset)
            #expect(try client.failure(.stream, to: 99, port: 7) == .connectionReset)
            done.set()
            for other in others { #expect(try other.value()) }
        }
    }

    @Test("no listener, one of the other type, no guest: the sibling is refused at once")
    func refusals() throws {
        let daemon = try SiblingDaemon([["g"], ["g"], ["g"]])
        let client = try daemon.guest(3)
        let server = try daemon.guest(4)
        try server.sockets.listen(.stream, port: 7)
        let done = Done()
        let serving = try server.serve(until: done)
        #expect(try client.failure(.stream, to: 4, port: 8) == .connectionReset)
        #expect(try client.failure(.seqpacket, to: 4, port: 7) == .connectionReset)
        #expect(try client.failure(.stream, to: 5, port: 7) == .connectionReset)
        #expect(try client.failure(.stream, to: 4, port: 7) == nil)
        done.set()
        #expect(try serving.value())
    }

    @Test("a guest that is there but does not answer: the sibling's connect ends after two seconds")
    func silence() throws {
        let daemon = try SiblingDaemon([["g"], ["g"]])
        let client = try daemon.guest(3)
        let silent = try daemon.guest(4)
        let start = MonotonicClock.now()
        #expect(try client.failure(.stream, to: silent.cid, port: 7) != nil)
        #expect(MonotonicClock.now() - start >= 1_900_000_000)
    }

    @Test(
        "half-close crosses behind the data, and the other direction goes on",
        arguments: [SocketType.stream, .seqpacket])
    func halfClose(type: SocketType) throws {
        let daemon = try SiblingDaemon([["g"], ["g"]])
        let client = try daemon.guest(3)
        let server = try daemon.guest(4)
        try server.sockets.listen(type, port: 7)
        let sent = pattern(100_000)
        let answer = pattern(90_000, seed: 1)
        let serving = try server.start { sockets in
            let id = try sockets.accept(port: 7, timeoutNanoseconds: testDeadline)
            #expect(try sockets.receiveToEnd(id) == sent)
            #expect(sockets.peerShutdown(id) == .send)
            try sockets.send(answer, to: id, timeoutNanoseconds: testDeadline)
            try sockets.close(id)
            try sockets.wait(testDeadline) { $0.connectionCount == 0 }
        }
        let id = try client.connect(type, to: server)
        try client.sockets.send(sent, to: id, timeoutNanoseconds: testDeadline)
        try client.sockets.shutdown(id, .send)
        #expect(try client.sockets.receiveToEnd(id) == answer)
        try client.sockets.close(id)
        try client.sockets.wait(testDeadline) { $0.connectionCount == 0 }
        try serving.value()
    }

    @Test("a guest that will not receive: the sibling's send fails, and what was under way is dropped")
    func receiveShutdown() throws {
        let daemon = try SiblingDaemon([["g"], ["g"]])
        let client = try daemon.guest(3)
        let server = try daemon.guest(4)
        try server.sockets.listen(.stream, port: 7)
        let done = Done()
        let serving = try server.start { sockets in
            let id = try sockets.accept(port: 7, timeoutNanoseconds: testDeadline)
            try sockets.shutdown(id, .receive)
            try sockets.serve { done.value }
        }
        let id = try client.connect(.stream, to: server)
        #expect(throws: SocketError.brokenPipe) {
            while true {
                try client.sockets.send(pattern(10_000), to: id, timeoutNanoseconds: testDeadline)
            }
        }
        done.set()
        try serving.value()
    }

    @Test("a guest whose monitor leaves: its siblings get what it sent, then the end")
    func monitorLeaves() throws {
        let daemon = try SiblingDaemon([["g"], ["g"]])
        let server = try daemon.guest(4)
        try server.sockets.listen(.stream, port: 7)
        let serving = try server.start { sockets in
            let id = try sockets.accept(port: 7, timeoutNanoseconds: testDeadline)
            let bytes = try sockets.receiveToEnd(id)
            try sockets.close(id)
            try sockets.wait(testDeadline) { $0.connectionCount == 0 }
            return bytes
        }
        try { () throws in
            let client = try daemon.guest(3)
            let id = try client.connect(.stream, to: server)
            try client.sockets.send(pattern(50_000), to: id, timeoutNanoseconds: testDeadline)
            // The device has taken everything.
            try eventually {
                try client.sockets.driver.reclaimTransmitted()
                return client.sockets.driver.transmitCapacity == 256
            }
        }()
        #expect(try serving.value() == pattern(50_000))
        // Its successor reaches them again.
        let again = try server.start { sockets in _ = try sockets.accept(port: 7, timeoutNanoseconds: testDeadline) }
        _ = try daemon.guest(3).connect(.stream, to: server)
        try again.value()
    }

    @Test("a sibling that does not read holds its sender back, bounded, and nobody else; nothing is lost")
    func backpressure() throws {
        let daemon = try SiblingDaemon([["g"], ["g"], ["g"]])
        let client = try daemon.guest(3)
        let stalled = try daemon.guest(4)
        let server = try daemon.guest(5)
        try stalled.sockets.listen(.stream, port: 7)
        try server.sockets.listen(.stream, port: 7)
        let accepting = try stalled.start { try $0.accept(port: 7, timeoutNanoseconds: testDeadline) }
        let blocked = try client.connect(.stream, to: stalled)
        let stalledID = try accepting.value()
        let chunk = pattern(32_768)
        var sent = 0
        #expect(throws: SocketError.timedOut) {
            while sent < 16 << 20 {
                try client.sockets.send(chunk, to: blocked, timeoutNanoseconds: 100_000_000)
                sent += chunk.count
            }
        }
        // At most what both buffers hold.
        #expect(sent <= 2 * Int(VsockDeviceConfiguration.defaultBufferByteCount))
        // The other sibling is served meanwhile, over the same two loops.
        let receiver = try server.start { sockets in
            let id = try sockets.accept(port: 7, timeoutNanoseconds: testDeadline)
            return try sockets.receive(id, exactly: 128 * 32_768)
        }
        let free = try client.connect(.stream, to: server)
        for _ in 0..<128 { try client.sockets.send(chunk, to: free, timeoutNanoseconds: testDeadline) }
        let received = try receiver.value()
        #expect(received == flat([[UInt8]](repeating: chunk, count: 128)))
        // When it reads at last, all is there.
        let complete = sent
        let done = Done()
        let serving = try client.serve(until: done)
        let late = try stalled.sockets.receive(stalledID, exactly: complete)
        #expect(late == flat([[UInt8]](repeating: chunk, count: complete / chunk.count)))
        done.set()
        #expect(try serving.value())
    }
}
