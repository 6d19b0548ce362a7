// SPDX-License-Identifier: Apache-2.0
//
// How conversations begin: between a program on the host and one in a guest, either way, and between two guests.

import VsockTestSupport
import VsockWire

extension SystemSimulation {
    /// Begins a conversation of a kind that is drawn.
    func beginAnyConversation() {
        let machine = random.below(guests.count)
        let siblings = options.siblings(of: machine)
        let type: SocketType = random.chance(percent: 40) ? .stream : .seqpacket
        switch random.below(siblings.isEmpty ? 2 : 4) {
        case 0: begin(type, from: .host(machine: machine), to: .guest(machine: machine))
        case 1: begin(type, from: .guest(machine: machine), to: .host(machine: machine))
        default: begin(type, from: .guest(machine: machine), to: .guest(machine: random.pick(siblings)))
        }
    }

    /// Begins a conversation.
    func begin(_ type: SocketType, from initiator: Party, to acceptor: Party) {
        let parties = [initiator, acceptor]
        let hasMarks = !initiator.isHost && !acceptor.isHost
        var scripts: [Script] = []
        for _ in 0..<2 {
            scripts.append(
                Script.drawn(
                    type, budget: options.budget(parties), recordLimit: options.recordLimit(parties),
                    marksRecords: hasMarks, hasEmptyRecords: options.carriesEmptyRecords(parties), using: &random))
        }
        let conversation = Conversation(
            index: conversations.count, type: type, from: initiator, to: acceptor, scripts: (scripts[0], scripts[1]),
            carriesMarks: hasMarks)
        conversations.append(conversation)
        for party in parties {
            if guests[party.machine].isMisbehaving { conversation.isUnchecked = true }
            if pauses[party.machine] != nil { conversation.mayBeRefused = true }
        }
        if kernel.faults.exhaustsDescriptors { conversation.mayBeRefused = true }
        // The acceptor is there before anybody asks for it.
        join(conversation, acceptor, isInitiator: false)
        join(conversation, initiator, isInitiator: true)
    }

    private func join(_ conversation: Conversation, _ party: Party, isInitiator: Bool) {
        switch party {
        case .host(let machine):
            programs.append(
                HostProgram(
                    conversation, path: path(machine), isInitiator: isInitiator, sendBuffer: options.programSendBuffer,
                    kernel: kernel))
        case .guest(let machine) where isInitiator:
            let peer = conversation.acceptor.isHost ? 2 : options.machines[conversation.acceptor.machine].guest.cid
            guests[machine].connect(conversation, to: peer)
        case .guest(let machine):
            guests[machine].listen(conversation)
        }
    }
}
