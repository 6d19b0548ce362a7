// SPDX-License-Identifier: Apache-2.0
//
// A machine in which a host program runs somewhere, and a thread's bytes cost what they cost there or elsewhere.

import Glibc
import Synchronization
import Testing
import VsockCore
import VsockSystem
import VsockTestSupport

@testable import VsockTransport

/// A window of a millisecond; what the thread's clock and its sockets would say of it.
private func window(bytes: Int, cost: Double, through sockets: [Int32] = [3], elsewhere: Int = 0) -> TrafficWindow {
    var window = TrafficWindow()
    for socket in sockets { window.carried(bytes / sockets.count, through: socket) }
    window.carriedElsewhere(elsewhere)
    window.nanoseconds = 1_000_000
    window.busyNanoseconds = UInt64(Double(bytes + elsewhere) * cost)
    return window
}

@Suite("Following a host program")
struct PeerFollowingTests {
    /// Messages of 64 bytes, as measured: bytes of a window and nanoseconds of a byte, with the program and without.
    private struct Machine {
        var following: PeerFollowing
        var now: UInt64 = 1_000_000_000
        var peer = 0
        /// Where the thread is; the kernel puts a free one anywhere but to its peer.
        var thread = 1
        var near = (bytes: 92_000, cost: 5.0)
        var far = (bytes: 80_000, cost: 11.5)
        var sockets: [Int32] = [3]
        var elsewhere = 0
        var binds: [Int] = []
        let processorCount: Int

        init?(processorCount: Int) {
            guard let following = PeerFollowing(processors: Array(0..<processorCount)) else { return nil }
            self.following = following
            self.processorCount = processorCount
        }

        @discardableResult
        mutating func turn() -> PeerFollowing.Move? {
            let (bytes, cost) = thread == peer ? near : far
            now += 1_000_000
            let move = following.ended(
                window(bytes: bytes, cost: cost, through: sockets, elsewhere: elsewhere), processor: thread, now: now)
            switch move {
            case .bind(let processor):
                thread = processor
                binds.append(processor)
            case .release: thread = (peer + 1) % processorCount
            case nil: break
            }
            return move
        }

        mutating func turns(_ count: Int) { for _ in 0..<count { turn() } }

        var isWithPeer: Bool { following.bound == peer }
    }

    /// Windows in which a free thread that has company finds it among two processors.
    private static let findingCount = PeerFollowing.referenceWindowCount + 1

    @Test("the thread goes to the program's processor, and after it when it moves", arguments: 2...5)
    func follows(processorCount: Int) throws {
        var machine = try #require(Machine(processorCount: processorCount))
        machine.turns(Self.findingCount + 2 * processorCount)
        #expect(machine.isWithPeer)
        for place in [1, 0, processorCount - 1] {
            machine.peer = place
            // A window shows that it has left, two each that it is not on another processor, and one that it is there.
            machine.turns(1 + 2 * (processorCount - 2) + 1)
            #expect(machine.isWithPeer, "program on \(place)")
            machine.turns(40)
            #expect(machine.isWithPeer)
        }
    }

    @Test("on a large machine the search goes on where it has stopped, until all processors have been tried")
    func largeMachine() throws {
        for (processorCount, place) in [(8, 0), (16, 11), (64, 40)] {
            var machine = try #require(Machine(processorCount: processorCount))
            machine.peer = place
            machine.thread = place + 1
            // Eight at a time, the windows that they take, and pauses that are twice as long when all have been tried.
            machine.turns(processorCount / PeerFollowing.trialLimit * 80 + 100)
            #expect(machine.isWithPeer, "\(processorCount) processors")
        }
    }

    @Test("with one processor there is nothing to choose")
    func oneProcessor() {
        #expect(PeerFollowing(processors: [7]) == nil)
        #expect(PeerFollowing(processors: []) == nil)
    }

    @Test("where no processor is cheaper the thread is left alone, for longer each time that all have been tried")
    func givesUp() throws {
        var machine = try #require(Machine(processorCount: 2))
        machine.near = machine.far
        var releases: [UInt64] = []
        for _ in 0..<30_000 where machine.turn() == .release { releases.append(machine.now) }
        // By the first, and without the windows of the next try.
        let pauses = zip(releases, releases.dropFirst()).map { ($1 - $0) / PeerFollowing.firstPause }
        #expect(pauses.prefix(9) == [2, 4, 8, 16, 32, 64, 128, 256, 256])
        #expect(machine.following.bound == nil)
        #expect(machine.binds.count == releases.count * PeerFollowing.trialLimit)
    }

    @Test("a processor that is cheaper and carries less is left")
    func carriesLess() throws {
        var machine = try #require(Machine(processorCount: 2))
        machine.near.bytes = 70_000
        machine.turns(Self.findingCount)
        #expect(machine.isWithPeer)
        machine.turns(PeerFollowing.rateWindowCount)
        #expect(machine.following.bound == nil)
        machine.turns(20)
        #expect(machine.following.bound == nil, "it pauses")
    }

    @Test("a processor that others have taken is left after two windows, and is not chosen")
    func taken() throws {
        var machine = try #require(Machine(processorCount: 2))
        machine.turns(Self.findingCount)
        #expect(machine.isWithPeer)
        machine.near.bytes = 5_000
        machine.turns(2)
        #expect(machine.following.bound == nil)
        machine.turns(1000)
        // In a second of pauses that become twice as long there is room for six tries.
        #expect(machine.binds.count < 6 * PeerFollowing.trialLimit)
    }

    @Test("a processor that others take again and again is left", arguments: 1...3)
    func takenAtTimes(goodCount: Int) throws {
        var machine = try #require(Machine(processorCount: 2))
        let near = machine.near
        machine.turns(Self.findingCount)
        var withPeer = 0
        for turn in 0..<10_000 {
            // Of every few milliseconds, one with nearly nothing.
            machine.near.bytes = turn % (goodCount + 1) == 0 ? near.bytes / 10 : near.bytes
            machine.turn()
            withPeer += machine.isWithPeer ? 1 : 0
        }
        #expect(withPeer < 1500, "\(withPeer) of 10,000 windows")
    }

    @Test("nobody is followed while several exchange data, and one beside others no longer")
    func severalPeers() throws {
        var machine = try #require(Machine(processorCount: 2))
        machine.sockets = [3, 4, 5]
        machine.turns(100)
        #expect(machine.binds.isEmpty)
        machine.sockets = [3]
        machine.turns(Self.findingCount)
        #expect(machine.isWithPeer)
        machine.sockets = [3, 4]
        machine.turns(2)
        #expect(machine.following.bound == nil)
    }

    @Test("nobody is followed while the thread carries as much for others")
    func otherWork() throws {
        var machine = try #require(Machine(processorCount: 2))
        machine.elsewhere = 80_000
        machine.turns(100)
        #expect(machine.binds.isEmpty)
        machine.elsewhere = 0
        machine.turns(Self.findingCount)
        #expect(machine.isWithPeer)
        machine.elsewhere = 80_000
        machine.turns(2)
        #expect(machine.following.bound == nil)
    }

    @Test("programs that take turns of some windows are not mistaken for one")
    func turns() throws {
        var machine = try #require(Machine(processorCount: 2))
        for turn in 0..<200 {
            machine.sockets = [turn % 12 < 6 ? 3 : 4]
            machine.turn()
        }
        #expect(machine.binds.isEmpty)
    }

    @Test("when the program ends, the thread is free after two windows, and follows the next one")
    func peerEnds() throws {
        var machine = try #require(Machine(processorCount: 2))
        machine.turns(Self.findingCount + PeerFollowing.usefulWindowCount)
        #expect(machine.isWithPeer)
        let (near, far) = (machine.near, machine.far)
        machine.near.bytes = 0
        machine.far.bytes = 0
        machine.turns(1)
        #expect(machine.turn() == .release)
        machine.turns(50)
        #expect(machine.following.bound == nil)
        machine.near = near
        machine.far = far
        machine.sockets = [9]
        machine.turns(Self.findingCount)
        #expect(machine.isWithPeer)
    }

    @Test("bursts too short to be of use are given up")
    func bursts() throws {
        var machine = try #require(Machine(processorCount: 8))
        machine.near = machine.far
        let far = machine.far
        for turn in 0..<10_000 {
            let bytes = turn % 20 < 10 ? far.bytes : 0
            machine.near.bytes = bytes
            machine.far.bytes = bytes
            machine.turn()
        }
        #expect(machine.binds.count < 200, "\(machine.binds.count) moves in ten seconds")
    }

    @Test("a thread that is idle most of the time, or carries little, stays where the kernel puts it")
    func idle() throws {
        var machine = try #require(Machine(processorCount: 2))
        machine.far.cost = 4
        machine.turns(100)
        #expect(machine.binds.isEmpty)
        machine.far = (15_000, 60)
        machine.turns(100)
        #expect(machine.binds.isEmpty)
    }

    @Test("a processor whose advantage has gone is left when it has to prove itself")
    func proof() throws {
        var machine = try #require(Machine(processorCount: 2))
        machine.turns(Self.findingCount)
        #expect(machine.isWithPeer)
        // Larger messages cost less everywhere, and here no less than there.
        machine.near = (3_000_000, 0.3)
        machine.far = (3_000_000, 0.3)
        machine.turns(PeerFollowing.proofWindowCount + 9)
        #expect(machine.following.bound == nil)
        // A free thread sees what they cost now, and finds nothing better.
        machine.turns(1 + 2 * PeerFollowing.trialLimit)
        #expect(machine.following.bound == nil)
        let bindCount = machine.binds.count
        machine.turns(20)
        #expect(machine.binds.count == bindCount, "it pauses")
    }

    @Test(
        "a program that moves again and again is followed as long as the thread is better off than free",
        arguments: [6, 20])
    func restlessProgram(period: Int) throws {
        var machine = try #require(Machine(processorCount: 2))
        machine.turns(Self.findingCount)
        /// Windows in which the thread is free, of so many.
        func freeCount(of count: Int) -> Int {
            (0..<count).count { turn in
                if turn % period == 0 { machine.peer = 1 - machine.peer }
                if machine.following.bound == nil { machine.thread = 1 - machine.peer }
                machine.turn()
                return machine.following.bound == nil
            }
        }
        // Now and then it is, to see what a byte costs then, and never for as long as a pause.
        let count = freeCount(of: 4000)
        #expect(count > 0)
        #expect(count < 80)
        // When it no longer is better off, it rests.
        machine.near.cost = machine.far.cost * 0.95
        _ = freeCount(of: PeerFollowing.proofWindowCount)
        let restCount = freeCount(of: 1000)
        #expect(restCount > 800)
    }

    @Test("what makes bytes dearer everywhere does not drive the thread from its program")
    func dearerEverywhere() throws {
        var machine = try #require(Machine(processorCount: 2))
        machine.turns(Self.findingCount + 40)
        #expect(machine.isWithPeer)
        machine.near.cost *= 1.4
        machine.far.cost *= 1.4
        machine.turns(50)
        #expect(machine.isWithPeer)
        let bindCount = machine.binds.count
        machine.turns(200)
        #expect(machine.isWithPeer)
        #expect(machine.binds.count == bindCount)
    }

    @Test("a processor that is better than none is left while a better one is known")
    func secondBest() throws {
        var machine = try #require(Machine(processorCount: 2))
        machine.turns(Self.findingCount + 40)
        #expect(machine.isWithPeer)
        // The program is elsewhere, and a byte costs more than with it, but less than it has cost the free thread.
        machine.peer = 1
        machine.far.cost *= PeerFollowing.worthwhileCost * 0.95
        machine.turns(3)
        #expect(machine.isWithPeer)
    }

    @Test("a thread that the kernel has put to the program, by chance, is kept there")
    func byChance() throws {
        var machine = try #require(Machine(processorCount: 3))
        machine.thread = 0
        machine.turns(Self.findingCount + 2)
        #expect(machine.isWithPeer)
        #expect(machine.binds == [1, 0])
    }

    @Test("the proof leaves a good processor for two windows, and comes back")
    func proofSucceeds() throws {
        var machine = try #require(Machine(processorCount: 2))
        machine.turns(Self.findingCount)
        var away = 0
        for _ in 0..<2000 {
            machine.turn()
            away += machine.isWithPeer ? 0 : 1
        }
        let proofCount = 2000 / (PeerFollowing.proofWindowCount + 2)
        #expect(away == 2 * proofCount)
        #expect(machine.binds == [0] + [[Int]](repeating: [1, 0], count: proofCount).flatMap { $0 })
    }

    @Test("the first window after each move may be dear, and so may a single one", arguments: [2, 5])
    func landing(processorCount: Int) throws {
        var machine = try #require(Machine(processorCount: processorCount))
        let near = machine.near
        var withPeer = 0
        var last = machine.thread
        for turn in 0..<2000 {
            machine.near = machine.thread != last || turn % 100 == 0 ? (25_000, 29) : near
            last = machine.thread
            machine.turn()
            withPeer += machine.isWithPeer ? 1 : 0
        }
        #expect(withPeer > 1900)
    }

    @Test("a program that moves all the time is not chased")
    func restlessPeer() throws {
        var machine = try #require(Machine(processorCount: 2))
        for turn in 0..<10_000 {
            if turn % 3 == 0 { machine.peer = 1 - machine.peer }
            machine.turn()
        }
        #expect(machine.binds.count < 200, "\(machine.binds.count) moves in ten seconds")
    }
}

@Suite("Windows of traffic")
struct TrafficWindowTests {
    @Test(
        "one peer is what four fifths of the bytes are exchanged with, in any order", arguments: [1, 2, 3] as [UInt64])
    func vote(seed: UInt64) {
        var random = PRNG(seed: seed)
        for _ in 0..<200 {
            var counts: [Int32: Int] = [:]
            var windows = [TrafficWindow()]
            let small = random.within(1...1000)
            for _ in 0..<random.within(1...300) {
                let socket = Int32(random.below(10) > 0 ? 0 : random.within(1...4))
                let count = random.within(1...(socket == 0 ? 4096 : small))
                counts[socket, default: 0] += count
                if socket == 4 {
                    windows[windows.count - 1].carriedElsewhere(count)
                } else {
                    windows[windows.count - 1].carried(count, through: socket)
                }
                if random.below(50) == 0 { windows.append(TrafficWindow()) }
            }
            var sum = windows[0]
            for window in windows.dropFirst() { sum.add(window) }
            let total = counts.values.reduce(0, +)
            #expect(sum.byteCount == total)
            if let peer = sum.peer { #expect(counts[peer, default: 0] > total / 5 * 4, "seed \(seed)") }
            if let (socket, most) = counts.max(by: { $0.value < $1.value }), socket != 4, most * 10 > total * 9 + 10 {
                #expect(sum.peer == socket, "seed \(seed)")
            }
        }
    }

    @Test("what has gone elsewhere is no peer, and a window without bytes has none")
    func none() {
        #expect(TrafficWindow().peer == nil)
        #expect(window(bytes: 0, cost: 1, through: [], elsewhere: 1_000_000).peer == nil)
        #expect(window(bytes: 1_000_000, cost: 1).peer == 3)
    }
}

@Suite("Placement of a thread", .serialized)
struct ThreadPlacementTests {
    private static let canChoose = ((try? CurrentThread.allowedProcessors().numbers.count) ?? 0) > 1

    /// A thread of its own, with the processors that it may use: others must not inherit what is set there. It says what
    /// is not as it should be.
    private func onThread(_ body: @escaping @Sendable (ProcessorSet) throws -> [String]) throws {
        let failures = Mutex<[String]>(["the thread has not said anything"])
        let thread = try WorkerThread(name: "placement") {
            do {
                let found = try body(try CurrentThread.allowedProcessors())
                failures.withLock { $0 = found }
            } catch {
                failures.withLock { $0 = ["\(error)"] }
            }
        }
        thread.join()
        #expect(failures.withLock { $0 } == [])
    }

    /// A clock, and windows of traffic for the placement.
    private struct Traffic {
        var placement: ThreadPlacement
        var now: UInt64
        var busy: UInt64 = 0

        init?(now: UInt64 = 1_000_000_000) {
            self.now = now
            guard let placement = ThreadPlacement(now: now, reading: .init(busyNanoseconds: 0, processor: 0)) else {
                return nil
            }
            self.placement = placement
        }

        /// A window in which all time was used, on `processor`, for so many bytes.
        mutating func pass(_ byteCount: Int, processor: Int) {
            placement.carried(byteCount, through: 3)
            now += ThreadPlacement.windowNanoseconds
            busy += ThreadPlacement.windowNanoseconds
            placement.pass(now: now, reading: .init(busyNanoseconds: busy, processor: processor))
        }
    }

    @Test(
        "the thread is bound to the processor where bytes are cheap, stays, and is let go when they end",
        .enabled(if: canChoose, "needs two processors"))
    func bound() throws {
        try onThread { before in
            guard let home = before.numbers.first, let away = before.numbers.last, home != away else {
                return ["one processor only"]
            }
            guard var traffic = Traffic() else { return ["no placement"] }
            var failures: [String] = []
            // Cheap on one processor, of however many.
            for _ in 0..<before.numbers.count * 140 {
                let here = try CurrentThread.allowedProcessors()
                traffic.pass(here == ProcessorSet([home]) ? 100_000 : 50_000, processor: away)
            }
            if try CurrentThread.allowedProcessors() != ProcessorSet([home]) { failures.append("not bound") }
            if !traffic.placement.isBound { failures.append("it does not say so") }
            if CurrentThread.schedulingPolicy != .batch { failures.append("it does not wait for its turn") }
            for _ in 0..<2 { traffic.pass(0, processor: home) }
            if try CurrentThread.allowedProcessors() != before { failures.append("not let go") }
            if traffic.placement.isBound { failures.append("it says that it is bound") }
            if CurrentThread.schedulingPolicy != .other { failures.append("it still waits for its turn") }
            return failures
        }
    }

    /// Ends the loop after a while, and says where its thread may run then.
    private final class Alarm: LoopTask {
        let loop: EventLoop
        var processors: ProcessorSet?

        init(_ loop: EventLoop) { self.loop = loop }

        override func deadlinePassed() {
            processors = try? CurrentThread.allowedProcessors()
            loop.stop()
        }
    }

    @Test("a loop does not sleep while its thread is bound", .enabled(if: canChoose, "needs two processors"))
    func staysAwake() throws {
        try onThread { before in
            guard let home = before.numbers.first, let away = before.numbers.last, home != away else {
                return ["one processor only"]
            }
            let loop = try EventLoop(mailbox: LoopMailbox())
            guard var traffic = Traffic(now: loop.now.nanoseconds) else { return ["no placement"] }
            while try CurrentThread.allowedProcessors() == before { traffic.pass(50_000, processor: away) }
            loop.placement = traffic.placement
            let alarm = Alarm(loop)
            loop.setDeadline(loop.now.advanced(byNanoseconds: 1_000_000_000), for: alarm)
            defer { loop.forget(alarm) }
            // Nothing happens until then.
            loop.run()
            return alarm.processors == before ? [] : ["the thread has slept where it was bound"]
        }
    }

    @Test("a loop is told what its device exchanges with whom, both ways")
    func wiring() throws {
        let device = try TestDevice()
        let pair = try ConnectedPair(device, try device.guest(), .stream, from: .guest)
        // Its window does not end.
        try device.inspect { $0.loop.placement = ThreadPlacement(now: .max / 2) }
        try pair.send(pattern(5000, seed: 1))
        #expect(try pair.host.receive(exactly: 5000).count == 5000)
        try pair.host.send(pattern(3000, seed: 2))
        #expect(try pair.receive(exactly: 3000).count == 3000)
        let window = try #require(try device.inspect { $0.loop.placement?.window })
        #expect(window.byteCount == 8000)
        #expect(window.peer != nil)
    }

    @Test("within a window nothing is looked up")
    func withinWindow() throws {
        try onThread { _ in
            guard var traffic = Traffic() else { return ["no placement"] }
            var count = 0
            func reading() -> ThreadPlacement.Reading {
                count += 1
                return .init(busyNanoseconds: 0, processor: 0)
            }
            traffic.placement.carried(7, through: 3)
            traffic.placement.pass(now: traffic.now + ThreadPlacement.windowNanoseconds - 1, reading: reading())
            // A clock that goes back.
            traffic.placement.pass(now: 0, reading: reading())
            let isOpen = traffic.placement.window.byteCount == 7
            traffic.placement.pass(now: traffic.now + ThreadPlacement.windowNanoseconds, reading: reading())
            return isOpen && count == 1 && traffic.placement.window == TrafficWindow() ? [] : ["\(count) lookups"]
        }
    }

    @Test(
        "who changes the thread's processors from outside is obeyed",
        .enabled(if: canChoose, "needs two processors"), arguments: [false, true])
    func outside(whileBound: Bool) throws {
        try onThread { before in
            guard let home = before.numbers.first, let away = before.numbers.last, home != away else {
                return ["one processor only"]
            }
            guard var traffic = Traffic() else { return ["no placement"] }
            if whileBound {
                while try CurrentThread.allowedProcessors() == before { traffic.pass(50_000, processor: away) }
            }
            let wanted = ProcessorSet([away])
            try CurrentThread.setAllowedProcessors(wanted)
            var failures: [String] = []
            for turn in 0..<1000 {
                traffic.pass(50_000, processor: away)
                if try CurrentThread.allowedProcessors() != wanted { failures.append("not obeyed in window \(turn)") }
            }
            if CurrentThread.schedulingPolicy != .other { failures.append("it waits for its turn") }
            return failures
        }
    }

    @Test(
        "who changes the thread's policy from outside is obeyed, before and while it is bound",
        .enabled(if: canChoose, "needs two processors"), arguments: [false, true])
    func policy(whileBound: Bool) throws {
        try onThread { before in
            guard let away = before.numbers.last, var traffic = Traffic() else { return ["no placement"] }
            // One that nobody here would choose.
            let idle: Int32 = 5
            var parameters = sched_param()
            if !whileBound { sched_setscheduler(0, idle, &parameters) }
            while try CurrentThread.allowedProcessors() == before { traffic.pass(50_000, processor: away) }
            if whileBound { sched_setscheduler(0, idle, &parameters) }
            var failures: [String] = []
            for _ in 0..<2 where traffic.placement.isBound { traffic.pass(0, processor: away) }
            if traffic.placement.isBound { failures.append("not let go") }
            if sched_getscheduler(0) != idle { failures.append("not obeyed") }
            return failures
        }
    }
}
