// SPDX-License-Identifier: Apache-2.0
//
// Guests that say anything to each other, in every framing: the daemon stands, and others are served.

import Testing
import VsockCore
import VsockSystem
import VsockTestSupport
import VsockWire

@testable import VsockTransport

@Suite("Siblings: garbage")
struct SiblingGarbageTests {
    /// A guest that says mostly plausible things.
    private final class Babbler {
        let driver: VsockDriver
        let cid: UInt64
        let peer: UInt64
        private(set) var receivedCount = 0

        init(_ daemon: SiblingDaemon, _ cid: UInt32, peer: UInt32, _ framing: RecordFraming) throws {
            var options = VsockDriver.Options()
            options.acceptsSeqpacket = framing == .standard
            driver = try VsockDriver(path: daemon.socketPath(cid), options: options)
            self.cid = UInt64(cid)
            self.peer = UInt64(peer)
        }

        /// Answers requests with an acceptance, most of the time, so that connections come to be.
        func listen(_ random: inout PRNG) throws {
            var requests: [PacketHeader] = []
            receivedCount += try driver.receive { header, _ in
                if header.operation == .request { requests.append(header) }
            }
            for request in requests where random.chance(percent: 90) {
                var answer = request
                swap(&answer.sourceCID, &answer.destinationCID)
                swap(&answer.sourcePort, &answer.destinationPort)
                answer.operation = .response
                answer.bufferAllocation = random.pick([0, 1, 4096, 262_144, .max])
                _ = try driver.transmit(answer)
            }
        }

        func say(_ random: inout PRNG) throws {
            let length = random.chance(percent: 70) ? random.below(600) : random.below(65_537)
            // Payload more often than its share of the operations.
            let operation = random.chance(percent: 50) ? 5 : UInt16(random.below(11))
            let isMarker = operation > 7
            let header = PacketHeader(
                sourceCID: cid, destinationCID: random.chance(percent: 98) ? peer : random.next(),
                sourcePort: UInt32(random.below(3)), destinationPort: UInt32(random.below(3)),
                payloadByteCount: UInt32(isMarker ? SequenceHeader.byteCount : length),
                type: random.chance(percent: 70) ? .seqpacket : .stream, operation: Operation(rawValue: operation),
                flags: UInt32(random.below(4)), bufferAllocation: random.pick([0, 1, 4096, 262_144, .max]),
                forwardedCount: UInt32(truncatingIfNeeded: random.next()))
            let marker = SequenceHeader(
                messageCount: UInt32(random.below(2)), messageByteCount: UInt32(random.below(100_000)))
            _ = try driver.transmit(header) { area in
                if isMarker { marker.write(to: area) }
            }
        }
    }

    @Test("guests that send each other anything do not disturb the daemon", arguments: FramingPair.all)
    func storm(framings: FramingPair) throws {
        let seed = UInt64.random(in: 0...UInt64.max)
        print("seed \(seed)")
        var random = PRNG(seed: seed)
        let daemon = try SiblingDaemon([["g"], ["g"], ["g"], ["g"]])
        do {
            let babblers = [
                try Babbler(daemon, 3, peer: 4, framings.first), try Babbler(daemon, 4, peer: 3, framings.second),
            ]
            let deadline = MonotonicClock.now() + testDeadline
            for _ in 0..<400 {
                for babbler in babblers {
                    for _ in 0..<random.below(50) { try babbler.say(&random) }
                    babbler.driver.flush()
                    try babbler.listen(&random)
                    try babbler.driver.reclaimTransmitted()
                    babbler.driver.flush()
                }
                try #require(MonotonicClock.now() < deadline, "the daemon takes no packets, seed \(seed)")
            }
            // They were heard: resets and requests came.
            for babbler in babblers { #expect(babbler.receivedCount > 0, "seed \(seed)") }
        }
        let server = try daemon.guest(5)
        let client = try daemon.guest(6)
        try server.sockets.listen(.stream, port: 7)
        let receiver = try server.serve { socket in
            return try socket.receiveToEnd()
        }
        let socket = try client.connect(.stream, to: server)
        try socket.send([1, 2, 3])
        socket.close()
        #expect(try receiver.value() == [1, 2, 3])
    }

    @Test("requests that a sibling refuses: after so many in a second it hears no more until that is over")
    func failedRequests() throws {
        var limits = DeviceLimits()
        limits[.failedRequests] = 2
        let daemon = try SiblingDaemon([["g"], ["g"]], limits: limits)
        let client = try VsockDriver(path: daemon.socketPath(3))
        let server = try VsockDriver(path: daemon.socketPath(4))
        func header(_ operation: Operation, fromClient: Bool, port: UInt32) -> PacketHeader {
            PacketHeader(
                sourceCID: fromClient ? 3 : 4, destinationCID: fromClient ? 4 : 3, sourcePort: fromClient ? port : 7,
                destinationPort: fromClient ? 7 : port, type: .stream, operation: operation,
                bufferAllocation: 262_144)
        }
        var heard: [UInt32] = []
        func ask(from port: UInt32) throws {
            _ = try client.transmit(header(.request, fromClient: true, port: port))
            client.flush()
            var isRefused = false
            try eventually {
                var requests: [UInt32] = []
                try server.receive { header, _ in
                    if header.operation == .request { requests.append(header.sourcePort) }
                }
                for port in requests { _ = try server.transmit(header(.reset, fromClient: false, port: port)) }
                server.flush()
                heard += requests
                try client.receive { header, _ in
                    isRefused = isRefused || (header.operation == .reset && header.destinationPort == port)
                }
                return isRefused
            }
        }
        let start = MonotonicClock.now()
        for port in 1...3 as ClosedRange<UInt32> { try ask(from: port) }
        #expect(heard == [1, 2])
        #expect(daemon.log.contains("max-failed-requests=2"))
        var port: UInt32 = 3
        while heard.count == 2 {
            port += 1
            try ask(from: port)
            try #require(MonotonicClock.now() - start < testDeadline, "requests are refused for ever")
        }
        #expect(heard.last == port)
        #expect(MonotonicClock.now() - start >= 1_000_000_000)
    }

    @Test("a guest that closes a connection and asks again from the same port is answered when the sibling is ready")
    func reusedPorts() throws {
        let daemon = try SiblingDaemon([["g"], ["g"]])
        let client = PacketGuest(try VsockDriver(path: daemon.socketPath(3)))
        let server = PacketGuest(try VsockDriver(path: daemon.socketPath(4)))
        func header(_ operation: Operation, fromClient: Bool, flags: UInt32 = 0) -> PacketHeader {
            PacketHeader(
                sourceCID: fromClient ? 3 : 4, destinationCID: fromClient ? 4 : 3, sourcePort: fromClient ? 1000 : 7,
                destinationPort: fromClient ? 7 : 1000, type: .stream, operation: operation, flags: flags,
                bufferAllocation: 262_144)
        }
        try client.send(header(.request, fromClient: true))
        #expect(try server.next().header == header(.request, fromClient: true))
        try server.send(header(.response, fromClient: false))
        #expect(try client.next().header.operation == .response)
        try client.send(header(.shutdown, fromClient: true, flags: ShutdownFlags.both.rawValue))
        #expect(try client.next().header.operation == .reset)
        while true {
            let end = try server.next().header
            #expect(end.operation == .shutdown)
            if ShutdownFlags(rawValue: end.flags) == .both { break }
        }
        // The server has not said that it is done with the first connection, when the second is asked for.
        try client.send(header(.request, fromClient: true))
        try server.send(header(.reset, fromClient: false))
        #expect(try server.next().header == header(.request, fromClient: true))
        try server.send(header(.response, fromClient: false))
        #expect(try client.next().header.operation == .response)
    }
}
