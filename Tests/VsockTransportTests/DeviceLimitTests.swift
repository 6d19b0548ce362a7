// SPDX-License-Identifier: Apache-2.0
//
// The limits of a VM: each refuses what is new, leaves what is there alone, is counted, and is logged at a bounded rate.

import Testing
import VhostUser
import VsockCore
import VsockSystem
import VsockTestSupport
import VsockWire

@testable import VsockTransport

@Suite("Device limits")
struct DeviceLimitTests {
    private func entry(_ device: TestDevice, _ name: DeviceLimits.Name) throws -> LimitEntry {
        try #require(try device.inspect { $0.limitEntries.first { $0.name == name } })
    }

    /// How often a limit was reached, which the log must say, too.
    private func reachedCount(_ device: TestDevice, _ name: DeviceLimits.Name) throws -> Int {
        let count = try entry(device, name).reachedCount
        #expect(device.log.contains("limit reached", name.rawValue) == (count > 0))
        return count
    }

    @Test("values stay in their range, and defaults are in it")
    func ranges() {
        var limits = DeviceLimits()
        for name in DeviceLimits.Name.allCases {
            #expect(name.range.contains(name.defaultValue))
            limits[name] = .max
            #expect(limits[name] == name.range.upperBound)
            limits[name] = .min
            #expect(limits[name] == name.range.lowerBound)
        }
    }

    @Test("connections, by number or by the bytes that they may hold: a further one is refused, the others go on")
    func connections() throws {
        for name in [DeviceLimits.Name.connections, .queuedBytes] {
            let device = try TestDevice {
                $0.limits[name] = name == .connections ? 2 : 2 * $0.connectionByteCount + 1
            }
            let guest = PacketGuest(try device.driver())
            let listener = try device.listen(.stream, port: 5000)
            try guest.connect(from: 1)
            let host = try listener.take()
            try guest.connect(from: 2)
            let other = try listener.take()
            try guest.send(guest.packet(.request, from: 3))
            #expect(try guest.next().header.operation == .reset)
            let client = try device.client()
            try client.send("CONNECT 5000\n")
            #expect(try client.isClosedWithoutText())
            #expect(try reachedCount(device, name) == 2)
            try guest.send(guest.packet(.readWrite, from: 1), payload: [1])
            #expect(try host.receive() == [1])
            try guest.send(guest.packet(.reset, from: 2))
            #expect(try other.receive() == nil)
            try guest.connect(from: 4)
            #expect(try entry(device, .connections).current == 2)
        }
    }

    @Test("half-open connections: clients that the guest does not answer do not pile up")
    func halfOpen() throws {
        let device = try TestDevice { $0.limits[.halfOpen] = 3 }
        let guest = PacketGuest(try device.driver())
        var clients: [HostProgram] = []
        for _ in 0..<3 {
            clients.append(try device.client())
            try clients.last?.send("CONNECT 9\n")
        }
        let requests = try (0..<3).map { _ in try guest.next().header }
        #expect(requests.allSatisfy { $0.operation == .request })
        let fourth = try device.client()
        try fourth.send("CONNECT 9\n")
        #expect(try fourth.isClosedWithoutText())
        #expect(try reachedCount(device, .halfOpen) == 1)
        #expect(try entry(device, .halfOpen).current == 3)
        // An answer makes room.
        try guest.send(guest.reply(to: requests[0], .response))
        #expect(try clients[0].receiveLine()?.hasPrefix("OK ") == true)
        let fifth = try device.client()
        try fifth.send("CONNECT 9\n")
        #expect(try guest.next().header.operation == .request)
    }

    @Test("silent clients: more than the limit wait, and that is counted")
    func silentClients() throws {
        let device = try TestDevice { $0.limits[.silentClients] = 2 }
        let guest = try device.guest()
        try guest.listen(.stream, port: 52)
        let silent = [try device.client(), try device.client()]
        try eventually { try entry(device, .silentClients).current == 2 }
        let next = try device.client()
        try next.send("CONNECT 52\n")
        _ = try guest.accept(port: 52)
        #expect(try next.receiveLine()?.hasPrefix("OK ") == true)
        #expect(try reachedCount(device, .silentClients) > 0)
        #expect(try silent[1].ready([.readable]).isEmpty)
    }

    @Test("clients that leave without a word: after so many in a second the next waits until it is over")
    func failedClients() throws {
        let device = try TestDevice { $0.limits[.failedClients] = 2 }
        let guest = try device.guest()
        try guest.listen(.stream, port: 52)
        let start = MonotonicClock.now()
        for _ in 0..<2 { try device.client().close() }
        try eventually { try device.counters().clientsFailed == 2 }
        let next = try device.client()
        try next.send("CONNECT 52\n")
        _ = try guest.accept(port: 52)
        #expect(try next.receiveLine()?.hasPrefix("OK ") == true)
        #expect(MonotonicClock.now() - start >= 1_000_000_000)
        #expect(try reachedCount(device, .failedClients) == 1)
        #expect(try entry(device, .failedClients).current == 0)
    }

    @Test("a monitor's messages have so much time in a second, and the next one waits until it is over")
    func monitorMilliseconds() throws {
        let device = try TestDevice { $0.limits[.monitorMilliseconds] = 5 }
        let guest = try RingGuest(device)
        func repeatTable(untilReached count: Int) throws {
            try eventually {
                try guest.frontend.perform(.setMemoryTable([guest.region]), [guest.memory.rawDescriptor])
                return try entry(device, .monitorMilliseconds).reachedCount >= count
            }
        }
        // The start may have taken more than that.
        let count = try entry(device, .monitorMilliseconds).reachedCount
        try repeatTable(untilReached: count + 1)
        let start = MonotonicClock.now()
        // There is a whole second between the next time and the one after it.
        try repeatTable(untilReached: count + 3)
        #expect(MonotonicClock.now() - start >= 1_000_000_000)
        #expect(device.log.contains("limit reached", "max-monitor-milliseconds=5"))
    }

    /// Second monitors, which are turned away, until the first has used up its time once more.
    private func useUpMonitorTime(_ device: TestDevice) throws {
        let count = try entry(device, .monitorMilliseconds).reachedCount
        try eventually {
            // No connection is made while the socket's backlog is full.
            for _ in 0..<20 { (try? HostProgram(connectingTo: device.socketPath, type: .stream))?.close() }
            return try entry(device, .monitorMilliseconds).reachedCount > count
        }
    }

    @Test("a guest goes on while its monitor has to wait, and the loop does not turn for who waits")
    func monitorPause() throws {
        let device = try TestDevice { $0.limits[.monitorMilliseconds] = 5 }
        let pair = try ConnectedPair(device, try device.guest(), .stream, from: .guest)
        func state() throws -> (isPaused: Bool, reachedCount: Int, iterationCount: Int) {
            try device.inspect {
                ($0.monitorPace.isPaused, $0.limits.count(.monitorMilliseconds), $0.loop.iterationCount)
            }
        }
        // On a slow machine a pause may be over too soon.
        try eventually {
            try useUpMonitorTime(device)
            let waiting = try? HostProgram(connectingTo: device.socketPath, type: .stream)
            defer { waiting?.close() }
            let before = try state()
            try pair.send([1])
            #expect(try pair.host.receive() == [1])
            try pair.host.send([2])
            #expect(try pair.receive() == [2])
            let after = try state()
            guard before.isPaused, after.isPaused, before.reachedCount == after.reachedCount else { return false }
            #expect(after.iterationCount - before.iterationCount < 100)
            return true
        }
    }

    @Test("a monitor that leaves while it has to wait makes room for the next, as do those that have waited in vain")
    func monitorLeaves() throws {
        let device = try TestDevice { $0.limits[.monitorMilliseconds] = 5 }
        var guest: GuestSockets? = try device.guest()
        #expect(guest?.connectionCount == 0)
        try useUpMonitorTime(device)
        // One that gives up before its turn has come, and the next one behind it.
        let impatient = try HostProgram(connectingTo: device.socketPath, type: .stream)
        guest = nil
        impatient.close()
        guest = try device.guest()
        _ = try ConnectedPair(device, try #require(guest), .stream, from: .guest)
    }

    @Test("records that nobody reads: the connection is reset at the limit, the others go on")
    func queuedRecords() throws {
        let device = try TestDevice { $0.limits[.queuedRecords] = 10 }
        let guest = PacketGuest(try device.driver())
        let listener = try device.listen(.seqpacket, port: 5000)
        try guest.connect(type: .seqpacket, from: 1)
        let slow = try listener.take()
        try guest.connect(type: .seqpacket, from: 2)
        let other = try listener.take()
        // The kernel's buffer takes some hundred of them first.
        var isReset = false
        for _ in 0..<20_000 where !isReset {
            try guest.send(guest.packet(.readWrite, type: .seqpacket, from: 1, flags: 1), payload: [7])
            if try entry(device, .queuedRecords).reachedCount > 0 { isReset = true }
        }
        #expect(isReset)
        #expect(try reachedCount(device, .queuedRecords) == 1)
        #expect(try guest.packetsUntilFence().contains { $0.header.operation == .reset })
        try guest.send(guest.packet(.readWrite, type: .seqpacket, from: 2, flags: 1), payload: [8])
        #expect(try other.receive() == [8])
        withExtendedLifetime(slow) {}
    }

    @Test("programs that keep what a guest has left: the oldest is cut off")
    func lingering() throws {
        let device = try TestDevice { $0.limits[.lingering] = 1 }
        let guest = PacketGuest(try device.driver())
        let listener = try device.listen(.stream, port: 5000)
        var programs: [HostProgram] = []
        for port in 1...2 as ClosedRange<UInt32> {
            try guest.connect(from: port)
            programs.append(try listener.take())
            // More than its socket takes.
            while try device.inspect({ $0.host.sockets.compactMap { $0 }.last?.backlog.isEmpty ?? true }) {
                let block = [UInt8](repeating: 1, count: 32_768)
                try guest.send(guest.packet(.readWrite, from: port), payload: block)
                _ = try guest.packetsUntilFence()
            }
            try guest.send(guest.packet(.reset, from: port))
            _ = try guest.packetsUntilFence()
        }
        #expect(try entry(device, .lingering).current == 1)
        #expect(try reachedCount(device, .lingering) == 1)
    }

    @Test("memory regions: one more is refused, and the session goes on")
    func memoryRegions() throws {
        let device = try TestDevice { $0.limits[.memoryRegions] = 2 }
        let guest = try RingGuest(device)
        let extra = try SharedMemory(name: "extra", byteCount: 4096)
        func region(_ index: UInt64) -> MemoryRegion {
            MemoryRegion(
                guestAddress: 1 << 40 + index << 20, byteCount: 4096, userAddress: 1 << 41 + index << 20, mmapOffset: 0)
        }
        try guest.frontend.perform(.addMemoryRegion(region(0)), [extra.rawDescriptor])
        #expect(throws: VsockDriverError.self) {
            try guest.frontend.perform(.addMemoryRegion(region(1)), [extra.rawDescriptor])
        }
        #expect(try reachedCount(device, .memoryRegions) == 1)
        try guest.frontend.perform(.removeMemoryRegion(region(0)), [])
        try guest.frontend.perform(.addMemoryRegion(region(1)), [extra.rawDescriptor])
        #expect(try entry(device, .memoryRegions).current == 2)
    }

    @Test("a chain of more segments comes back unused, and the next is served")
    func chainSegments() throws {
        let device = try TestDevice { $0.limits[.chainSegments] = 64 }
        let guest = try RingGuest(device, queueSize: 256)
        try guest.send(guest.packet(.request), payload: [], cuts: [])
        _ = try guest.used(VsockDevice.QueueIndex.transmit)
        let header = guest.packet(.readWrite, payloadByteCount: 100)
        try guest.send(header, payload: [UInt8](repeating: 1, count: 100), cuts: [44] + Array(repeating: 1, count: 99))
        #expect(try guest.used(VsockDevice.QueueIndex.transmit).byteCount == 0)
        #expect(try reachedCount(device, .chainSegments) == 1)
        try guest.post([4096])
        try guest.send(guest.packet(.request, to: 1))
        #expect(try guest.next()?.header.operation == .reset)
    }

    @Test("messages for another guest's device: beyond the limit, connections are refused at once")
    func siblingMessages() throws {
        let inbox = SiblingInbox(mailbox: try LoopMailbox())
        let route = SiblingRoute(cid: .init(rawValue: 4), inbox: inbox)
        let half = SiblingSocket(type: .stream, phase: .open)
        for count in 1...3 {
            _ = route.append(SiblingMessage(target: half, event: .closed))
            #expect(route.waitingCount == count)
            if count == 2 { route.deliver() }
        }
        #expect(inbox.count == 2 && inbox.take().count == 2 && inbox.count == 0)
    }

    @Test("a limit that is reached again and again is logged once a second")
    func rate() throws {
        let log = LogRecorder()
        let watch = LimitWatch(DeviceLimits(), log: log.logger)
        for step in 0..<3000 as Range<UInt64> {
            watch.reached(.connections, now: Instant(nanoseconds: step * 1_000_000))
            watch.reached(.lingering, now: Instant(nanoseconds: step * 1_000_000))
        }
        #expect(watch.count(.connections) == 3000)
        #expect(log.lines.count == 6)
        #expect(log.contains("max-connections=16384", "times=2001"))
    }
}
