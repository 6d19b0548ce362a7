// SPDX-License-Identifier: Apache-2.0
//
// What a run is like: all of it drawn from the seed, so that runs differ in kind and not only in detail.

import VsockCore
import VsockTestSupport
import VsockTransport
import VsockWire

/// What may go wrong during the first phase of a run.
enum Fault: String, CaseIterable {
    /// A guest reboots.
    case reboot
    /// A monitor stops a guest's queues and starts them again, at the same place.
    case pause
    /// The daemon ends and is started again; guests reset their transport.
    case daemonRestart
    /// A program on the host is killed.
    case hostProgramDeath
    /// A program in a guest closes or aborts its connection.
    case guestProgramDeath
    /// A worker, or a guest, does nothing for a while.
    case stall
    /// The device has no descriptor left for a while.
    case descriptorExhaustion
    /// The clock jumps.
    case timeJump
}

/// One VM.
struct MachineOptions {
    var guest = GuestOptions()
    var seqpacket = SeqpacketMode.auto
    var deviceBufferByteCount: UInt32 = 4096
    var groups: Set<String> = ["default"]
}

/// The conditions of a run.
struct SimulationOptions {
    var machines: [MachineOptions] = []
    var workerCount = 1
    var conversationCount = 4
    var faults: [Fault] = []
    /// Faults are so many in a thousand steps.
    var faultsPerMille = 10
    var kernelFaults = KernelFaults.none
    var programSendBuffer = 212_992
    var maximumSendBuffer = 212_992

    /// Conditions drawn from a source of random numbers.
    static func drawn(using random: inout PRNG) -> SimulationOptions {
        var options = SimulationOptions()
        for index in 0..<random.pick([1, 1, 2, 2, 3]) {
            options.machines.append(machine(cid: UInt32(3 + index), using: &random))
        }
        options.workerCount = random.within(1...options.machines.count)
        options.conversationCount = random.within(1...6)
        options.faults = Fault.allCases.filter { _ in random.chance(percent: 35) }
        options.faultsPerMille = random.pick([2, 10, 40])
        options.kernelFaults.spuriousBlocks = random.pick([0, 0, 5, 60])
        options.kernelFaults.shortTransfers = random.pick([0, 0, 20, 80])
        options.programSendBuffer = random.pick([4608, 10_000, 212_992])
        options.maximumSendBuffer = random.pick([2304, 8192, 212_992])
        return options
    }

    private static func machine(cid: UInt32, using random: inout PRNG) -> MachineOptions {
        var machine = MachineOptions()
        machine.seqpacket = random.pick([.auto, .auto, .auto, .standard, .rfcV5])
        let isStandard = machine.seqpacket == .standard || machine.seqpacket == .auto && random.chance(percent: 50)
        machine.groups = random.pick([["a"], ["a"], ["a", "b"], ["b"]])
        let buffers: [UInt32] = [64, 100, 1000, 4096, 20_000, 65_536]
        machine.deviceBufferByteCount = random.pick(buffers)
        machine.guest.cid = cid
        machine.guest.framing = isStandard ? .standard : .rfcV5
        machine.guest.bufferByteCount = random.pick(buffers)
        machine.guest.isHostile = random.chance(percent: 12)
        machine.guest.rings.queueSize = random.pick([1, 2, 4, 8, 16, 64])
        machine.guest.rings.receivePayload = random.pick([8, 50, 500, 4096])
        machine.guest.rings.transmitPayload = random.pick([8, 50, 500, 4096])
        machine.guest.rings.pieceCount = random.within(1...3)
        machine.guest.rings.hasEventIndex = random.chance(percent: 50)
        machine.guest.rings.hasIndirect = random.chance(percent: 50)
        return machine
    }

    // MARK: Conversations

    /// The largest record that both ends, and all between them, can take.
    func recordLimit(_ parties: [Party]) -> Int {
        var limit = Int.max
        var largestBuffer = 0
        for party in parties {
            let machine = machines[party.machine]
            let smaller = Int(min(machine.deviceBufferByteCount, machine.guest.bufferByteCount))
            largestBuffer = max(largestBuffer, smaller)
            if machine.guest.framing == .standard { limit = min(limit, smaller) }
            if party.isHost {
                let sendBuffer = max(ModelSocket.minimumSendBuffer, min(programSendBuffer, 2 * maximumSendBuffer))
                limit = min(limit, sendBuffer - ModelSocket.recordOverhead)
            }
        }
        // A framing whose records flow through the buffer is tried with larger ones.
        return min(limit, 3 * largestBuffer, budget(parties))
    }

    /// Bytes of a script, so that a run has not too many packets.
    func budget(_ parties: [Party]) -> Int {
        var smallest = 4096
        for party in parties {
            let rings = machines[party.machine].guest.rings
            smallest = min(smallest, rings.receivePayload, rings.transmitPayload)
        }
        return 30 * smallest
    }

    /// Whether empty records cross: the standard framing has none, and an AF_UNIX socket shows them as its end.
    func carriesEmptyRecords(_ parties: [Party]) -> Bool {
        parties.allSatisfy { !$0.isHost && machines[$0.machine].guest.framing == .rfcV5 }
    }

    /// The machines whose guests reach that of `machine`.
    func siblings(of machine: Int) -> [Int] {
        machines.indices.filter { $0 != machine && !machines[$0].groups.isDisjoint(with: machines[machine].groups) }
    }
}

extension SimulationOptions: CustomStringConvertible {
    var description: String {
        let guests = machines.map { machine in
            let rings = machine.guest.rings
            return "cid \(machine.guest.cid) \(machine.guest.framing)\(machine.guest.isHostile ? " hostile" : "") "
                + "buffers \(machine.guest.bufferByteCount)/\(machine.deviceBufferByteCount) ring \(rings.queueSize)"
                + "x\(rings.pieceCount)\(rings.hasIndirect ? " indirect" : "")\(rings.hasEventIndex ? " event-idx" : "") "
                + "slots \(rings.receivePayload)/\(rings.transmitPayload)"
        }
        return "\(guests.joined(separator: "; ")); \(workerCount) workers, \(conversationCount) conversations, faults: "
            + "\(faults.map(\.rawValue).joined(separator: " ")) \(faultsPerMille)/1000, EAGAIN "
            + "\(kernelFaults.spuriousBlocks) %, short \(kernelFaults.shortTransfers) %"
    }
}
