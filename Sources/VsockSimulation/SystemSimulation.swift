// SPDX-License-Identifier: Apache-2.0
//
// A whole system on one thread and virtual time: guests, the real devices of a daemon (VsockTransport's, over a model
// of the kernel), programs on the host, guests that talk to each other. Two phases:
//
//      safety     who acts next is drawn from the seed; faults happen; checkers look at every packet and every byte
//      liveness   faults stop, new conversations begin, everybody is diligent: all must come to its end, and afterwards
//                 no connection, socket, descriptor or ring slot may be in use
//
// Files: +Traffic begins conversations, +Faults breaks things, +Liveness is the second phase.

import VirtioQueue
import VsockCore
import VsockSystem
import VsockTestSupport
import VsockTransport
import VsockWire

/// What came of a run.
package struct SimulationOutcome: Sendable {
    package let seed: UInt64
    package let stepCount: Int
    /// What the run was like.
    package let options: String
    /// A hash over all that crossed the rings, and when: equal runs have equal hashes.
    package let traceHash: UInt64
    package let packetCount: Int
    package let conversationCount: Int
    /// What was wrong, and at which step; nil when all is well.
    package let failure: (step: Int, text: String)?

    /// The command that repeats the run.
    package var replay: String { "vsock simulate --seed \(seed) --steps \(stepCount)" }
}

/// See the top of the file.
package final class SystemSimulation {
    /// Steps of the first phase, unless told otherwise.
    package static let defaultStepCount = 1500

    let options: SimulationOptions
    let mutation: Mutation?
    var random: PRNG
    let kernel: ModelKernel
    var daemon: SimulatedDaemon?
    var guests: [SimulatedGuest] = []
    var programs: [HostProgram] = []
    var conversations: [Conversation] = []
    /// Guests whose queues a monitor has stopped, and where.
    var pauses: [(receive: UInt16, transmit: UInt16)?] = []
    /// Until which step guests and workers do nothing.
    var guestStalls: [Int] = []
    var workerStalls: [Int] = []
    var exhaustedUntil = 0
    /// Time that jumps may still take: less than a connection has to end.
    var jumpBudget: UInt64 = 5_000_000_000
    /// Descriptors of a daemon without connections.
    var idleDescriptorCount = 0
    var step = 0
    private(set) var packetCount = 0
    private(set) var traceHash: UInt64 = 0xcbf2_9ce4_8422_2325
    private(set) var failure: (step: Int, text: String)?

    private init(seed: UInt64, mutation: Mutation?) {
        random = PRNG(seed: seed)
        options = SimulationOptions.drawn(using: &random)
        self.mutation = mutation
        kernel = ModelKernel(seed: random.next(), maximumSendBuffer: options.maximumSendBuffer)
    }

    /// Runs a simulation to its end.
    package static func run(
        seed: UInt64, stepCount: Int = defaultStepCount, mutation: Mutation? = nil
    ) -> SimulationOutcome {
        let simulation = SystemSimulation(seed: seed, mutation: mutation)
        Simulation.$kernel.withValue(simulation.kernel) { simulation.run(stepCount) }
        return SimulationOutcome(
            seed: seed, stepCount: stepCount, options: "\(simulation.options)", traceHash: simulation.traceHash,
            packetCount: simulation.packetCount, conversationCount: simulation.conversations.count,
            failure: simulation.failure)
    }

    private func run(_ stepCount: Int) {
        do {
            try start()
            while step < stepCount, failure == nil {
                step += 1
                try takeStep()
            }
            if failure == nil { try converge() }
        } catch {
            violation("the simulation cannot go on: \(error)")
        }
        stopDaemon()
        mix(UInt64(kernel.activity))
    }

    private func start() throws {
        kernel.faults = options.kernelFaults
        for (index, machine) in options.machines.enumerated() {
            let guest = try SimulatedGuest(index, machine.guest, mutation: mutation, observer: self)
            guest.isMisbehaving = machine.guest.isHostile
            guests.append(guest)
            pauses.append(nil)
            guestStalls.append(0)
        }
        workerStalls = Array(repeating: 0, count: options.workerCount)
        try startDaemon()
        for guest in guests { startDriver(guest) }
    }

    func path(_ machine: Int) -> String { "/run/vm\(machine)" }

    // MARK: The daemon

    func startDaemon() throws {
        let configurations = options.machines.enumerated().map { index, machine in
            var configuration = VsockDeviceConfiguration(
                guestCID: machine.guest.cid, socketPath: path(index) + ".vhost", hybridPath: path(index))
            configuration.groups = machine.groups
            configuration.seqpacket = machine.seqpacket
            configuration.bufferByteCount = machine.deviceBufferByteCount
            return configuration
        }
        daemon = try SimulatedDaemon(configurations, workerCount: options.workerCount)
        idleDescriptorCount = kernel.descriptorCount
    }

    /// Ends the daemon; nothing of it is left.
    func stopDaemon() {
        daemon?.stop()
        daemon = nil
        if kernel.descriptorCount > 0 {
            violation("a daemon that has ended leaves \(kernel.descriptorCount) descriptors")
        }
    }

    func startDriver(_ guest: SimulatedGuest, bases: (receive: UInt16, transmit: UInt16) = (0, 0)) {
        guest.isRunning = true
        guest.receiveRing.isCalled = true
        guest.transmitRing.isCalled = true
        daemon?.startDriver(
            guest.machine, guest, memory: guest.memory, layouts: guest.layouts, features: guest.features, bases: bases)
    }

    // MARK: Steps

    private func takeStep() throws {
        if random.chance(percent: 50) { kernel.now += UInt64(random.below(20_000)) }
        if step >= exhaustedUntil { kernel.faults.exhaustsDescriptors = false }
        switch random.below(100) {
        case 0..<40:
            let worker = random.below(options.workerCount)
            if step >= workerStalls[worker] { daemon?.turn(worker: worker) }
        case 40..<75:
            let guest = guests[random.below(guests.count)]
            if step >= guestStalls[guest.machine] { act(guest) }
        case 75..<95:
            if !programs.isEmpty { programs[random.below(programs.count)].run(&random, isDiligent: false) }
        default:
            if conversations.count < options.conversationCount { beginAnyConversation() }
        }
        if random.below(1000) < options.faultsPerMille, !options.faults.isEmpty { try breakSomething() }
        if step % 64 == 0 { sweep() }
    }

    private func act(_ guest: SimulatedGuest) {
        guest.expire()
        switch random.below(4) {
        case 0: guest.postBuffers(random.within(1...guest.receiveRing.slotCount))
        case 1: guest.runPrograms(&random, isDiligent: false)
        default: guest.run(&random, budget: random.pick([1, 4, 64]))
        }
    }

    /// Looks after what has ended.
    func sweep() {
        for guest in guests { guest.stopIdleListeners() }
        for conversation in conversations {
            guard let defect = conversation.defect else { continue }
            if !conversation.isUnchecked { violation("\(conversation): \(defect)") }
        }
    }

    // MARK: The trace

    func mix(_ word: UInt64) {
        traceHash = (traceHash ^ word) &* 0x0000_0100_0000_01b3
        traceHash ^= traceHash >> 29
    }
}

extension SystemSimulation: GuestObserver {
    var now: Instant { Instant(nanoseconds: kernel.now) }

    func packetCrossed(_ header: PacketHeader, _ guest: SimulatedGuest, fromGuest: Bool) {
        packetCount += 1
        mix(kernel.now)
        mix(UInt64(guest.machine) << 48 | (fromGuest ? 1 << 40 : 0) | UInt64(header.operation.rawValue))
        mix(UInt64(header.sourcePort) << 32 | UInt64(header.destinationPort))
        mix(UInt64(header.payloadByteCount) << 32 | UInt64(header.flags))
        mix(UInt64(header.bufferAllocation) << 32 | UInt64(header.forwardedCount))
        guard !guest.isMisbehaving, let defect = guest.ledger.check(header, fromGuest: fromGuest) else { return }
        violation("guest \(guest.options.cid), ports \(header.sourcePort) to \(header.destinationPort): \(defect)")
    }

    func violation(_ text: String) {
        if failure == nil { failure = (step, text) }
    }

    func kick(_ guest: SimulatedGuest, queue: Int) { daemon?.kick(guest.machine, queue: queue) }
}
