// SPDX-License-Identifier: Apache-2.0
//
// Monitors come and go, guests are paused and rebooted, memory is replaced: what stays and what ends.

import Testing
import VhostUser
import VirtioQueue
import VsockCore
import VsockSystem
import VsockWire

@testable import VsockTransport

@Suite("Life of a front-end")
struct FrontendLifecycleTests {
    private static let transmit = VsockDevice.QueueIndex.transmit
    private static let receive = VsockDevice.QueueIndex.receive

    @Test("the monitor leaves and another comes: host listeners stay, the old guest's connections end")
    func reconnect() throws {
        let device = try TestDevice()
        let listener = try device.listen(.stream, port: 5000)
        for round in 0..<5 {
            var guest: PacketGuest? = PacketGuest(try device.driver())
            try guest?.connect()
            let host = try listener.take()
            let client = try device.client(.seqpacket)
            try client.send("CONNECT 52")
            let request = try #require(try guest?.next().header)
            try guest?.send(try #require(guest?.reply(to: request, .response)))
            #expect(try client.receiveLine()?.hasPrefix("OK ") == true)
            let pending = try device.client()
            try pending.send("CONNECT 1")
            try guest?.send(try #require(guest?.packet(.readWrite)), payload: [UInt8(round)])
            #expect(try host.receive() == [UInt8(round)])
            guest = nil
            #expect(try host.receive() == nil)
            #expect(try client.receive() == nil)
            try eventually { try device.inspect { !$0.isReady } }
            // Of the clients, those that asked are turned away; one that has not asked yet may wait for the next guest.
            let late = try device.client()
            try late.send("CONNECT 52\n")
            #expect(try late.isClosedWithoutText())
            #expect(try device.connectionCount() == 0)
            #expect(try pending.ready(.readable).isEmpty)
        }
        #expect(device.directory.names == ["d", "v", "v_5000", "v_seqpacket"])
    }

    @Test("a monitor that leaves and comes back at once is not taken for a second one")
    func reconnectAtOnce() async {
        // In a process of its own: a child that another test makes has the connection, too, until it executes a program.
        await #expect(processExitsWith: .success) {
            let device = try TestDevice()
            for _ in 0..<50 {
                let driver = try VsockDriver(path: device.socketPath)
                try #require(driver.guestCID.rawValue == TestDevice.guestCID)
            }
        }
    }

    @Test("a second monitor is turned away while one is connected, which does not notice")
    func second() throws {
        let device = try TestDevice()
        let guest = try device.guest()
        let pair = try ConnectedPair(device, guest, .stream, from: .guest)
        for _ in 0..<3 {
            #expect(throws: VsockDriverError.self) { try VsockDriver(path: device.socketPath) }
        }
        try pair.send([1])
        #expect(try pair.host.receive() == [1])
        #expect(device.log.contains("warning", "second monitor was turned away"))
    }

    @Test("a monitor that says nothing, garbage, or half a message, is no reason to stop")
    func badMonitors() throws {
        let device = try TestDevice()
        for bytes in [[], [1, 2, 3], [UInt8](repeating: 0xff, count: 12), pattern(500)] as [[UInt8]] {
            // Turned away while the one before it still counts as connected.
            try eventually {
                let monitor = try HostProgram(connectingTo: device.socketPath, type: .stream)
                defer { monitor.close() }
                guard !bytes.isEmpty, case .failed(let errno) = monitor.send(bytes[...]) else { return true }
                #expect(errno == .brokenPipe || errno == .connectionReset)
                return false
            }
        }
        _ = try ConnectedPair(device, try device.nextGuest(), .stream, from: .guest)
    }

    @Test("the memory table is replaced while the queues run: connections live on")
    func memoryTable() throws {
        let device = try TestDevice()
        let (guest, listener) = try connected(device)
        let host = try listener.take()
        let whole = guest.region
        let half = whole.byteCount / 2
        let lower = MemoryRegion(
            guestAddress: whole.guestAddress, byteCount: half, userAddress: whole.userAddress, mmapOffset: 0)
        let upper = MemoryRegion(
            guestAddress: whole.guestAddress + half, byteCount: whole.byteCount - half,
            userAddress: whole.userAddress + half, mmapOffset: half)
        let file = guest.memory.rawDescriptor
        let tables: [[MemoryRegion]] = [[whole], [lower, upper], [upper, lower], [whole]]
        for (round, table) in tables.enumerated() {
            try guest.frontend.perform(.setMemoryTable(table), table.map { _ in file })
            try exchange(guest, host, UInt8(round))
        }
        #expect(try device.inspect { $0.isReady })
    }

    @Test("memory is added and taken back: what lies in it can be used only in between")
    func memorySlots() throws {
        let device = try TestDevice()
        let (guest, listener) = try connected(device)
        let host = try listener.take()
        let extra = try SharedMemory(name: "extra", byteCount: 65536)
        let region = MemoryRegion(
            guestAddress: 1 << 40, byteCount: 65536, userAddress: 1 << 50, mmapOffset: 0)
        let bytes = guest.packet(.readWrite, payloadByteCount: 2).encoded + [7, 8]
        UnsafeMutableRawBufferPointer(start: extra.mapping.base, count: 65536).copyBytes(from: bytes)
        let packet = Descriptor(
            address: region.guestAddress, byteCount: UInt32(bytes.count), flags: 0, next: 0)

        try guest.frontend.perform(.addMemoryRegion(region), [extra.rawDescriptor])
        guest.rings[Self.transmit].submit([packet])
        guest.kick(Self.transmit)
        #expect(try host.receive() == [7, 8])
        try guest.frontend.perform(.removeMemoryRegion(region), [])
        guest.rings[Self.transmit].submit([packet])
        guest.kick(Self.transmit)
        try eventually { try device.inspect { $0.counters.malformedChains } == 1 }
        try exchange(guest, host, 1)
    }

    /// How a monitor stops the queues of a VM that is paused.
    enum Pause: CaseIterable, Sendable {
        /// Asks where they stand.
        case queueBase
        /// Disables them, then asks where they stand: QEMU.
        case disableThenQueueBase
        /// Only disables them.
        case disable
    }

    @Test("queues are stopped and started again where they stood: connections live on", arguments: Pause.allCases)
    func pause(how: Pause) throws {
        let device = try TestDevice()
        let (guest, listener) = try connected(device)
        let host = try listener.take()
        for round in 0..<3 {
            let bases = try stop(guest, how)
            #expect(try !device.inspect { $0.isReady })
            // Meanwhile the host program goes on.
            try host.send([UInt8(round), 100])
            #expect(try host.ready(.readable).isEmpty)
            for queue in 0..<2 {
                if how == .disable {
                    try guest.frontend.perform(.setQueueEnabled(queue: queue, true), [])
                } else {
                    try guest.start(queue, base: bases[queue])
                }
            }
            #expect(try guest.next()?.payload == [UInt8(round), 100])
            try guest.post([100])
            try exchange(guest, host, UInt8(round))
        }
        #expect(try device.connectionCount() == 1)
    }

    @Test(
        "queues that start at 0 belong to a guest that has booted anew: old connections end",
        arguments: [
            Pause.queueBase, .disableThenQueueBase,
        ])
    func reboot(how: Pause) throws {
        let device = try TestDevice()
        let (guest, listener) = try connected(device)
        let host = try listener.take()
        _ = try stop(guest, how)
        for queue in 0..<2 {
            try guest.renew(queue)
            try guest.start(queue)
        }
        #expect(try host.receive() == nil)
        for _ in 0..<4 { try guest.post([100]) }
        try guest.send(guest.packet(.request))
        #expect(try guest.next()?.header.operation == .response)
        _ = try listener.take()
        #expect(try device.connectionCount() == 1)
    }

    @Test("a reset of the device ends its connections; set up anew, it goes on")
    func reset() throws {
        let device = try TestDevice()
        let (guest, listener) = try connected(device)
        let host = try listener.take()
        try guest.frontend.perform(.resetDevice, [])
        #expect(try host.receive() == nil)
        #expect(try !device.inspect { $0.isReady })
        try guest.frontend.perform(
            .setFeatures(1 << 30 | 1 << 32 | VsockFeatures.stream.rawValue | VsockFeatures.seqpacket.rawValue), [])
        for queue in 0..<2 {
            try guest.renew(queue)
            try guest.start(queue)
        }
        try guest.post([100])
        try guest.send(guest.packet(.request))
        #expect(try guest.next()?.header.operation == .response)
    }

    @Test("a call descriptor that blocks holds up nobody: it is a full pipe")
    func blockingCall() throws {
        let device = try TestDevice()
        let (guest, listener) = try connected(device)
        let host = try listener.take()
        let pipe = try DescriptorIO.makePipe(nonBlocking: true)
        let full = pattern(4096)
        while case .count = full.withUnsafeBytes({ DescriptorIO.write(pipe.writeEnd.rawValue, from: $0) }) {}
        try DescriptorIO.setNonBlocking(pipe.writeEnd.rawValue, false)
        try guest.frontend.perform(.setCall(queue: Self.transmit, hasDescriptor: true), [pipe.writeEnd.rawValue])
        try exchange(guest, host, 1)
        _ = pipe.readEnd.rawValue
    }

    @Test("a kick descriptor whose writer is gone does not keep the device busy")
    func deadKick() throws {
        let device = try TestDevice()
        let (guest, listener) = try connected(device)
        let host = try listener.take()
        let pipe = try deadPipe()
        try guest.frontend.perform(.setKick(queue: Self.transmit, hasDescriptor: true), [pipe.rawValue])
        let before = try device.inspect { $0.loop.iterationCount }
        for round in 0..<10 {
            guest.kick(Self.receive)
            try host.send([UInt8(round)])
            #expect(try guest.next()?.payload == [UInt8(round)])
            try guest.post([100])
        }
        // A few iterations for each of the above; a descriptor that is always readable makes many thousands.
        try eventually { try device.inspect { $0.loop.iterationCount } > before }
        #expect(try device.inspect { $0.loop.iterationCount } - before < 500)
    }

    @Test("kicks in vain are looked at now and then, and no packet is left behind them")
    func vainKicks() throws {
        let device = try TestDevice()
        let (guest, listener) = try connected(device)
        let host = try listener.take()
        try flood(device, guest) { round in try exchange(guest, host, UInt8(round)) }
    }

    @Test("kicks in vain of a guest that owes the device receive buffers are looked at now and then, too")
    func vainKicksWithoutBuffers() throws {
        let device = try TestDevice()
        let guest = try RingGuest(device)
        // Nobody listens: the device has a reset for the guest.
        try guest.send(guest.packet(.request))
        try eventually { try device.inspect { $0.isStarved } }
        try flood(device, guest) { _ in }
        try guest.post([100])
        #expect(try guest.next()?.header.operation == .reset)
    }

    @Test("kicks of queues that are broken are not looked at; those of queues that are set up anew are")
    func kicksOfBrokenQueues() throws {
        let device = try TestDevice()
        let guest = try RingGuest(device)
        guest.rings[Self.transmit].offer([.max])
        guest.kick(Self.transmit)
        try eventually { try device.inspect { !$0.isReady } }
        // A queue is not set up anew by another descriptor alone.
        try guest.setKick(Self.transmit)
        let before = try device.inspect { $0.loop.iterationCount }
        for _ in 0..<5000 {
            guest.kick(Self.transmit)
            guest.kick(Self.receive)
        }
        // To look is an iteration, too.
        #expect(try device.inspect { $0.loop.iterationCount } - before <= 2)
        for queue in 0..<2 {
            try guest.frontend.perform(.getQueueBase(queue: queue), [])
            try guest.renew(queue)
            try guest.start(queue)
        }
        try guest.post([100])
        try guest.send(guest.packet(.request))
        #expect(try guest.next()?.header.operation == .reset)
    }

    /// Kicks and kicks, at times with something to do, which is then done in the middle of a pause; the device's loop
    /// may not turn for each.
    private func flood(_ device: TestDevice, _ guest: RingGuest, _ work: (Int) throws -> Void) throws {
        let before = try device.inspect { $0.loop.iterationCount }
        let start = MonotonicClock.now()
        for round in 0..<20 {
            for _ in 0..<5000 {
                guest.kick(Self.transmit)
                guest.kick(Self.receive)
            }
            try work(round)
        }
        // Each pause begins after so many looks and ends with two more, and so does each of the packets.
        let pauses = Int((MonotonicClock.now() - start) / KickPause.nanoseconds)
        let count = try device.inspect { $0.loop.iterationCount } - before
        #expect(count < 4 * pauses + 20 * (KickPause.vainKickLimit + 20), "\(count) iterations, \(pauses) pauses")
    }

    // MARK: Parts

    /// The read end of a pipe whose write end is closed.
    private func deadPipe() throws -> OwnedFileDescriptor {
        let pipe = try DescriptorIO.makePipe(nonBlocking: true)
        return try pipe.readEnd.duplicate()
    }

    /// A guest that has connected from port 1000 to the listener.
    private func connected(_ device: TestDevice) throws -> (RingGuest, UnixListener) {
        let listener = try device.listen(.stream, port: 5000)
        let guest = try RingGuest(device)
        for _ in 0..<4 { try guest.post([100]) }
        try guest.send(guest.packet(.request))
        #expect(try guest.next()?.header.operation == .response)
        try guest.post([100])
        return (guest, listener)
    }

    /// A byte each way.
    private func exchange(_ guest: RingGuest, _ host: HostProgram, _ byte: UInt8) throws {
        try guest.send(guest.packet(.readWrite, payloadByteCount: 1), payload: [byte])
        #expect(try host.receive() == [byte])
        try host.send([byte, byte])
        #expect(try guest.next()?.payload == [byte, byte])
        try guest.post([100])
    }

    /// Stops the queues; where they stand.
    private func stop(_ guest: RingGuest, _ how: Pause) throws -> [UInt16] {
        if how != .queueBase {
            for queue in 0..<2 { try guest.frontend.perform(.setQueueEnabled(queue: queue, false), []) }
        }
        guard how != .disable else { return [] }
        return try (0..<2).map { queue in
            let reply = try guest.frontend.perform(.getQueueBase(queue: queue), [])
            guard case .queueBase(queue, let base) = reply else {
                throw TestFailure("no base: \(String(describing: reply))")
            }
            return base
        }
    }

    @Test("the call descriptor of the event queue stays open as long as the monitor, whose guest may read it")
    func eventQueueCallDescriptor() throws {
        let device = try TestDevice()
        let front = try VhostUserFrontend(path: device.socketPath)
        let pair = try UnixSocket.makePair(.stream, nonBlocking: true)
        let ours = pair.first
        do {
            let theirs = pair.second
            try front.perform(.setOwner, [])
            try front.perform(.setCall(queue: VsockDevice.QueueIndex.event, hasDescriptor: true), [theirs.rawValue])
            try front.perform(.getFeatures, [])
        }
        // Closed by the device, it would be at its end by now: the answer to the last request has come.
        let result = withUnsafeTemporaryAllocation(byteCount: 8, alignment: 8) {
            DescriptorIO.read(ours.rawValue, into: $0)
        }
        #expect(result == .wouldBlock)
    }
}
