// SPDX-License-Identifier: Apache-2.0
//
// Random traffic between two endpoints: see `TrafficSimulation` for what is checked on the way and at the end.

import Testing
import VsockCore
import VsockTestSupport
import VsockWire

@Suite("Random traffic between two endpoints")
struct TrafficTests {
    /// 8 shares of 320 runs, so that a failure is soon found and cores are used.
    @Test("keeps bytes, boundaries and credit, and frees every slot", arguments: 0..<8)
    func keepsEverything(share: UInt64) {
        for seed in share * 320..<(share + 1) * 320 {
            var simulation = TrafficSimulation(seed: seed)
            simulation.run()
            let violations = simulation.violations
            #expect(violations.isEmpty, "seed \(seed)")
            if !violations.isEmpty { return }
        }
    }

    @Test("is the same for the same seed, packet by packet", arguments: [1, 17, 4711, 0xdead_beef] as [UInt64])
    func isDeterministic(seed: UInt64) {
        for offset in 0..<25 as Range<UInt64> {
            var first = TrafficSimulation(seed: seed &+ offset)
            first.run()
            var second = TrafficSimulation(seed: seed &+ offset)
            second.run()
            let hashes = (first.traceHash, second.traceHash)
            let counts = (first.packetCount, second.packetCount)
            #expect(hashes.0 == hashes.1 && counts.0 == counts.1, "seed \(seed &+ offset)")
        }
    }

    /// The greediest sender that never asks, against a reader that takes whole records, as large as its buffer.
    @Test(
        "comes to an end although every CREDIT_REQUEST is lost",
        arguments: [SocketType.stream, .seqpacket], [RecordFraming.standard, .rfcV5])
    func endsWithoutCreditRequests(type: SocketType, framing: RecordFraming) {
        for seed in 0..<60 as Range<UInt64> {
            var random = PRNG(seed: seed)
            // Large enough that the limit of packets in flight is not what the sender waits for.
            let buffer = random.pick([20_000, 65_536, 262_144])
            var options = TrafficOptions()
            options.framing = framing
            options.guestBufferByteCount = UInt32(buffer)
            options.hostBufferByteCount = UInt32(buffer)
            options.capacities = 65_536...65_536
            options.maximumLatency = random.pick([0, 10])
            options.readerDiligence = random.pick([100, 30])
            options.readsAll = random.chance(percent: 50)
            options.losesCreditRequests = true
            let outboxes = (0..<2).map { _ in
                (0..<6).map { _ in
                    Message(random.bytes(random.pick([buffer, buffer / 2 - 16, random.within(1...buffer)])))
                }
            }
            options.conversations = [
                .init(
                    initiator: .guest, type: type,
                    fromGuest: type == .stream ? [Message(outboxes[0].flatMap(\.bytes))] : outboxes[0],
                    fromHost: type == .stream ? [Message(outboxes[1].flatMap(\.bytes))] : outboxes[1])
            ]
            var simulation = TrafficSimulation(options, seed: seed)
            simulation.run()
            let violations = simulation.violations
            #expect(violations.isEmpty, "seed \(seed)")
            // No timer had to help.
            let elapsed = simulation.elapsed.nanoseconds
            #expect(elapsed < EndpointConfiguration.host().creditProbeNanoseconds, "seed \(seed)")
        }
    }
}
