// SPDX-License-Identifier: Apache-2.0
//
// The second phase: nothing goes wrong any more, so everything must come to its end in bounded time.

import VsockCore
import VsockTransport
import VsockWire

extension SystemSimulation {
    /// Virtual time after which the system counts as wedged: several times the longest timer.
    private static let patienceNanoseconds: UInt64 = 60_000_000_000
    /// Rounds after which it counts as busy for ever.
    private static let maximumRoundCount = 20_000

    /// Heals the system, begins new conversations, and runs until nothing is left to do.
    func converge() throws {
        kernel.faults = .none
        for guest in guests {
            if guest.isMisbehaving || guest.isBroken {
                try reboot(guest)
                guest.isMisbehaving = false
            } else if pauses[guest.machine] != nil {
                pauseOrResume(guest)
            }
        }
        kernel.release(all: true)
        beginProbes()
        let end = now.advanced(byNanoseconds: Self.patienceNanoseconds)
        var roundCount = 0
        while failure == nil {
            let before = (packetCount, kernel.activity)
            playRound()
            roundCount += 1
            guard before == (packetCount, kernel.activity), !hasWork else {
                if roundCount > Self.maximumRoundCount { return violation("busy for ever: \(unfinished)") }
                continue
            }
            sweep()
            if isFinished { break }
            guard let next = nextDeadline, next <= end else { return violation("wedged: \(unfinished)") }
            kernel.now = max(kernel.now + 1, next.nanoseconds)
        }
        if failure == nil { checkAccounts() }
    }

    /// Every way of talking, once more.
    private func beginProbes() {
        for machine in guests.indices {
            begin(.stream, from: .host(machine: machine), to: .guest(machine: machine))
            begin(.seqpacket, from: .guest(machine: machine), to: .host(machine: machine))
            for sibling in options.siblings(of: machine) {
                begin(.seqpacket, from: .guest(machine: machine), to: .guest(machine: sibling))
            }
        }
    }

    private func playRound() {
        step += 1
        for worker in 0..<options.workerCount { daemon?.turn(worker: worker) }
        for guest in guests {
            guest.expire()
            guest.run(&random, budget: 64)
            guest.postBuffers(guest.receiveRing.slotCount)
            guest.runPrograms(&random, isDiligent: true)
        }
        for program in programs { program.run(&random, isDiligent: true) }
        if step % 16 == 0 { sweep() }
    }

    private var hasWork: Bool { (0..<options.workerCount).contains { daemon?.hasWork(worker: $0) == true } }

    private var nextDeadline: Instant? {
        var earliest = daemon?.nextDeadline
        for guest in guests { earliest = Instant.earliest(earliest, guest.endpoint.nextDeadline) }
        return Instant.earliest(earliest, kernel.nextRelease.map(Instant.init))
    }

    private var isFinished: Bool { unfinished.isEmpty }

    /// What has not come to its end.
    private var unfinished: [String] {
        var result = conversations.filter { !$0.isOver }.map {
            "\($0): \($0.ends.initiator.progress); \($0.ends.acceptor.progress)"
        }
        for guest in guests {
            if guest.endpoint.connectionCount > 0 {
                result.append("guest \(guest.options.cid) keeps \(guest.endpoint.connectionCount) connections")
            }
            if guest.transmitRing.inFlightCount > 0 {
                result.append(
                    "guest \(guest.options.cid) has not got \(guest.transmitRing.inFlightCount) chains back")
            }
            guard let census = daemon?.census(guest.machine), census != DeviceCensus() else { continue }
            result.append("the device of guest \(guest.options.cid) keeps \(census)")
        }
        return result
    }

    /// Nothing is in use when nothing is going on.
    private func checkAccounts() {
        if kernel.descriptorCount != idleDescriptorCount {
            violation("\(kernel.descriptorCount) descriptors are open, \(idleDescriptorCount) before any connection")
        }
        for guest in guests {
            for (name, ring) in [("receive", guest.receiveRing), ("transmit", guest.transmitRing)] {
                guard ring.inFlightCount + ring.freeSlots.count != ring.slotCount else { continue }
                violation("guest \(guest.options.cid): slots of the \(name) ring are lost")
            }
        }
    }
}
