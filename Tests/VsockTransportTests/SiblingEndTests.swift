// SPDX-License-Identifier: Apache-2.0
//
// Who reaches whom among the guests of a daemon, how connections between them end, and that a guest which does not
// read or answer holds up nobody else.

import Testing
import VsockCore
import VsockSystem
import VsockTestSupport
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
            for (to, server) in guests.enumerated() where to != from {
                let isSibling = !groups[from].isDisjoint(with: groups[to])
                let failure = try client.failure(.stream, to: server.cid, port: 7)
                #expect(failure == (isSibling ? nil : .connectionReset), "\(client.cid) to \(server.cid)")
            }
            // A CID of no VM.
            #expect(try client.failure(.stream, to: 99, port: 7) == .connectionReset)
        }
    }

    @Test("no listener, one of the other type, no guest: the sibling is refused at once")
    func refusals() throws {
        let daemon = try SiblingDaemon([["g"], ["g"], ["g"]])
        let client = try daemon.guest(3)
        let server = try daemon.guest(4)
        try server.sockets.listen(.stream, port: 7)
        #expect(try client.failure(.stream, to: 4, port: 8) == .connectionReset)
        #expect(try client.failure(.seqpacket, to: 4, port: 7) == .connectionReset)
        #expect(try client.failure(.stream, to: 5, port: 7) == .connectionReset)
        #expect(try client.failure(.stream, to: 4, port: 7) == nil)
        // Nor does a guest reach itself by way of the device.
        let alone = PacketGuest(try VsockDriver(path: daemon.socketPath(5)))
        var request = alone.packet(.request, to: 7)
        request.sourceCID = 5
        request.destinationCID = 5
        try alone.send(request)
        #expect(try alone.next().header.operation == .reset)
    }

    @Test("a guest that is there but does not answer: the sibling's connect ends after two seconds")
    func silence() throws {
        let daemon = try SiblingDaemon([["g"], ["g"]])
        let client = try daemon.guest(3)
        let silent = try VsockDriver(path: daemon.socketPath(4))
        let start = MonotonicClock.now()
        #expect(try client.failure(.stream, to: silent.guestCID, port: 7) != nil)
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
        let serving = try server.serve { socket in
            #expect(try socket.receiveToEnd() == sent)
            #expect(socket.peerShutdown == .send)
            try socket.send(answer)
            socket.close()
            try server.waitForEnds()
        }
        let socket = try client.connect(type, to: server)
        try socket.send(sent)
        try socket.shutdown(.send)
        #expect(try socket.receiveToEnd() == answer)
        socket.close()
        try client.waitForEnds()
        try serving.value()
    }

    @Test("a guest that will not receive: the sibling's send fails, and what was under way is dropped")
    func receiveShutdown() throws {
        let daemon = try SiblingDaemon([["g"], ["g"]])
        let client = try daemon.guest(3)
        let server = try daemon.guest(4)
        try server.sockets.listen(.stream, port: 7)
        let accepting = try server.serve { try $0.shutdown(.receive) }
        let socket = try client.connect(.stream, to: server)
        #expect(throws: SocketError.brokenPipe) {
            while true { try socket.send(pattern(10_000)) }
        }
        try accepting.value()
    }

    @Test("a guest whose monitor leaves: its siblings get what it sent, then the end")
    func monitorLeaves() throws {
        let daemon = try SiblingDaemon([["g"], ["g"]])
        let server = try daemon.guest(4)
        try server.sockets.listen(.stream, port: 7)
        let serving = try server.serve { socket in
            let bytes = try socket.receiveToEnd()
            socket.close()
            try server.waitForEnds()
            return bytes
        }
        try { () throws in
            let client = PacketGuest(try VsockDriver(path: daemon.socketPath(3)))
            func packet(_ operation: Operation) -> PacketHeader {
                var header = client.packet(operation, to: 7)
                header.destinationCID = UInt64(server.cid.rawValue)
                return header
            }
            try client.send(packet(.request))
            #expect(try client.next().header.operation == .response)
            try client.send(packet(.readWrite), payload: pattern(50_000))
            // The device has taken everything.
            try eventually {
                try client.driver.reclaimTransmitted()
                return client.driver.transmitCapacity == 256
            }
        }()
        #expect(try serving.value() == pattern(50_000))
        // Its successor reaches them again.
        let successor = try daemon.guest(3)
        _ = try successor.connect(.stream, to: server)
    }

    @Test("a sibling that does not read holds its sender back, bounded, and nobody else; nothing is lost")
    func backpressure() throws {
        let daemon = try SiblingDaemon([["g"], ["g"], ["g"]])
        let client = try daemon.guest(3)
        let stalled = try daemon.guest(4)
        let server = try daemon.guest(5)
        try stalled.sockets.listen(.stream, port: 7)
        try server.sockets.listen(.stream, port: 7)
        let blocked = try client.connect(.stream, to: stalled)
        let unread = try stalled.sockets.accept(port: 7)
        let chunk = pattern(32_768)
        var sent = 0
        #expect(throws: SocketError.wouldBlock) {
            while sent < 16 << 20 {
                try blocked.send(chunk, timeoutNanoseconds: testPatience)
                sent += chunk.count
            }
        }
        // At most what both buffers hold.
        #expect(sent <= 2 * Int(VsockDeviceConfiguration.defaultBufferByteCount))
        // The other sibling is served meanwhile, over the same two loops.
        let receiver = try server.serve { socket in
            return try socket.receive(exactly: 128 * 32_768)
        }
        let free = try client.connect(.stream, to: server)
        for _ in 0..<128 { try free.send(chunk) }
        let received = try receiver.value()
        #expect(received == flat([[UInt8]](repeating: chunk, count: 128)))
        // When it reads at last, all is there.
        let late = try unread.receive(exactly: sent)
        #expect(Array(late[..<sent]) == flat([[UInt8]](repeating: chunk, count: sent / chunk.count)))
    }

    @Test("a sibling that has stopped altogether, its buffers full, holds up nobody else")
    func stalled() throws {
        let daemon = try SiblingDaemon([["g"], ["g"], ["g"]])
        let client = try daemon.guest(3)
        let server = try daemon.guest(5)
        let stalled = PacketGuest(try VsockDriver(path: daemon.socketPath(4)))
        try server.sockets.listen(.stream, port: 7)
        let connecting = try Background {
            try client.sockets.connect(.stream, to: 4, port: 7)
        }
        var answer = try stalled.next().header
        #expect(answer.operation == .request)
        swap(&answer.sourceCID, &answer.destinationCID)
        swap(&answer.sourcePort, &answer.destinationPort)
        answer.operation = .response
        answer.bufferAllocation = .max
        try stalled.send(answer)
        // From here on its queues are left alone, and it said that it takes whatever it is sent.
        let blocked = try connecting.value()
        let chunk = pattern(32_768)
        #expect(throws: SocketError.wouldBlock) {
            for _ in 0..<512 { try blocked.send(chunk, timeoutNanoseconds: testPatience) }
        }
        let receiver = try server.serve { try $0.receive(exactly: 128 * 32_768) }
        let free = try client.connect(.stream, to: server)
        for _ in 0..<128 { try free.send(chunk) }
        let received = try receiver.value()
        #expect(received == flat([[UInt8]](repeating: chunk, count: 128)))
        withExtendedLifetime(stalled) {}
    }
}
