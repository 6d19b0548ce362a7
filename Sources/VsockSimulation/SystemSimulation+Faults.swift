// SPDX-License-Identifier: Apache-2.0
//
// What breaks during the first phase. Each fault says which conversations it excuses, so that any other that fails is
// found.

import VsockTestSupport
import VsockTransport

extension SystemSimulation {
    /// Lets one of the run's faults happen.
    func breakSomething() throws {
        switch random.pick(options.faults) {
        case .reboot: try reboot(guests[random.below(guests.count)])
        case .pause: pauseOrResume(guests[random.below(guests.count)])
        case .daemonRestart: if random.chance(percent: 20) { try restartDaemon() }
        case .hostProgramDeath: if !programs.isEmpty { programs[random.below(programs.count)].die() }
        case .guestProgramDeath:
            guard !conversations.isEmpty else { return }
            let conversation = conversations[random.below(conversations.count)]
            let isAbort = random.chance(percent: 50)
            let party = random.chance(percent: 50) ? conversation.initiator : conversation.acceptor
            if !party.isHost { guests[party.machine].abandon(conversation, isAbort: isAbort) }
        case .stall:
            let end = step + random.within(10...300)
            if random.chance(percent: 50) {
                guestStalls[random.below(guests.count)] = end
            } else {
                workerStalls[random.below(options.workerCount)] = end
            }
        case .descriptorExhaustion:
            kernel.faults.exhaustsDescriptors = true
            exhaustedUntil = step + random.within(10...200)
            excuseBeginnings { _ in true }
        case .timeJump:
            let jump = min(jumpBudget, UInt64(random.within(1_000_000...2_500_000_000)))
            jumpBudget -= jump
            kernel.now += jump
            excuseBeginnings { _ in true }
        }
    }

    /// What has not begun need not begin any more.
    private func excuseBeginnings(_ isConcerned: (Conversation) -> Bool) {
        for conversation in conversations where !conversation.isConnected && isConcerned(conversation) {
            conversation.mayBeRefused = true
            // The acceptor knows of it, the initiator may never.
            if conversation.isEstablished { conversation.isDoomed = true }
        }
    }

    private func doom(_ isConcerned: (Conversation) -> Bool) {
        for conversation in conversations where !conversation.isOver && isConcerned(conversation) {
            conversation.isDoomed = true
        }
    }

    /// A guest reboots: its monitor resets the device, its connections are gone.
    func reboot(_ guest: SimulatedGuest) throws {
        doom { $0.concerns(guest.machine) }
        daemon?.removeDriver(guest.machine)
        pauses[guest.machine] = nil
        try guest.reboot()
        startDriver(guest)
    }

    func pauseOrResume(_ guest: SimulatedGuest) {
        guard !guest.isBroken else { return }
        if let bases = pauses[guest.machine] {
            pauses[guest.machine] = nil
            startDriver(guest, bases: bases)
        } else {
            excuseBeginnings { $0.concerns(guest.machine) }
            guard let bases = daemon?.pauseDriver(guest.machine) else { return }
            guest.isRunning = false
            pauses[guest.machine] = bases
            // Nothing has been sent, or 65,536 packets: the device cannot tell this from a reboot.
            if bases.transmit == 0 { doom { $0.concerns(guest.machine) } }
        }
    }

    private func restartDaemon() throws {
        doom { _ in true }
        stopDaemon()
        kernel.faults.exhaustsDescriptors = false
        try startDaemon()
        for guest in guests {
            pauses[guest.machine] = nil
            if guest.isBroken {
                try guest.reboot()
                startDriver(guest)
            } else {
                guest.transportReset()
                startDriver(guest, bases: guest.usedIndices)
            }
        }
    }
}
