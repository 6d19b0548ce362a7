// SPDX-License-Identifier: Apache-2.0
//
// The receiver's update policy must never leave a sender waiting that never asks (Linux before 5.16 knows no
// CREDIT_REQUEST): a greedy sender and a reader who takes what it pleases must come to an end.

import Testing
import VsockCore
import VsockTestSupport
import VsockWire

@Suite("Credit updates without requests")
struct CreditUpdateModelTests {
    /// What the sender may not split, and the reader may not take in parts.
    enum Discipline: Sendable, CaseIterable {
        case stream
        /// The reader takes whole records only; the sender splits them at will.
        case wholeRecords
        /// The sender sends 8-byte markers between its bytes, and those in one piece.
        case markers
    }

    struct Model {
        var sender = CreditAccount(bufferAllocation: 0)
        var receiver: CreditAccount
        var random: PRNG
        var unitByteCounts: [Int]
        let discipline: Discipline
        var unit = 0
        var sentOfUnit = 0
        var receivedUnits = 0
        var receivedOfUnit = 0
        var consumable = 0
        var inFlight: [Int] = []

        init(buffer: UInt32, discipline: Discipline, seed: UInt64) {
            receiver = CreditAccount(bufferAllocation: buffer)
            random = PRNG(seed: seed)
            self.discipline = discipline
            let largest = discipline == .markers ? 3 * Int(buffer) : Int(buffer)
            unitByteCounts = []
            for _ in 0..<12 {
                if discipline == .markers { unitByteCounts.append(8) }
                unitByteCounts.append(random.chance(percent: 40) ? largest : random.within(1...largest))
            }
            tell()
        }

        var isDone: Bool { receivedUnits == unitByteCounts.count && receiver.receivedByteCount == 0 }

        mutating func tell() {
            var packet = PacketBuilder()
            packet.bufferAllocation = receiver.bufferAllocation
            packet.forwardedCount = receiver.forwardedCount
            receiver.advertise()
            sender.update(from: packet.packet(.creditUpdate))
        }

        mutating func send() -> Bool {
            guard unit < unitByteCounts.count else { return false }
            let isMarker = discipline == .markers && unitByteCounts[unit] == 8
            let byteCount = min(sender.peerFreeByteCount, unitByteCounts[unit] - sentOfUnit)
            guard byteCount >= (isMarker ? 8 : 1) else { return false }
            sender.transmit(byteCount)
            inFlight.append(byteCount)
            sentOfUnit += byteCount
            if sentOfUnit == unitByteCounts[unit] { (unit, sentOfUnit) = (unit + 1, 0) }
            return true
        }

        /// False when there is nothing to receive; nil when the sender has exceeded the buffer.
        mutating func receive() -> Bool? {
            guard !inFlight.isEmpty else { return false }
            let byteCount = inFlight.removeFirst()
            guard receiver.receive(UInt32(byteCount)) else { return nil }
            receivedOfUnit += byteCount
            if discipline != .wholeRecords { consumable += byteCount }
            if receivedOfUnit == unitByteCounts[receivedUnits] {
                if discipline == .wholeRecords { consumable += receivedOfUnit }
                (receivedUnits, receivedOfUnit) = (receivedUnits + 1, 0)
            }
            if receiver.needsUpdate { tell() }
            return true
        }

        mutating func consume() -> Bool {
            guard consumable > 0 else { return false }
            let byteCount = random.chance(percent: 30) ? consumable : random.within(1...consumable)
            consumable -= byteCount
            receiver.consume(byteCount)
            if receiver.needsUpdate { tell() }
            return true
        }

        /// Runs to the end; false when it is stuck or the buffer is exceeded.
        mutating func finishes() -> Bool {
            while !isDone {
                var hasMoved = false
                while random.chance(percent: 70), send() { hasMoved = true }
                for _ in 0..<random.below(3) {
                    guard let hasReceived = receive() else { return false }
                    if hasReceived { hasMoved = true }
                }
                if random.chance(percent: 50), consume() { hasMoved = true }
                if hasMoved { continue }
                // By chance or for good? Everybody gets a turn.
                guard let hasReceived = receive() else { return false }
                guard hasReceived || consume() || send() else { return false }
            }
            return true
        }
    }

    @Test(
        "never deadlock", arguments: Discipline.allCases,
        [1, 2, 3, 7, 8, 9, 12, 15, 16, 31, 32, 33, 100, 128, 4096, 262_144] as [UInt32])
    func senderIsNeverLeftWaiting(discipline: Discipline, buffer: UInt32) {
        // A marker does not fit a smaller buffer at all.
        if discipline == .markers, buffer < 8 { return }
        for seed in 0..<25 as Range<UInt64> {
            var model = Model(buffer: buffer, discipline: discipline, seed: seed)
            let isFinished = model.finishes()
            #expect(isFinished, "seed \(seed)")
        }
    }
}
