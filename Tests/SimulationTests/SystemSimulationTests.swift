// SPDX-License-Identifier: Apache-2.0
//
// Whole systems on virtual time: what holds for every seed, and that a broken device is found.

import Testing
import VsockSimulation

@Suite("Simulation of whole systems")
struct SystemSimulationTests {
    @Test("nothing goes wrong that must not, and all comes to its end", arguments: 0..<10)
    func seeds(batch: UInt64) {
        for seed in (batch * 20)..<(batch * 20 + 20) {
            let outcome = SystemSimulation.run(seed: seed)
            if let failure = outcome.failure {
                Issue.record("\(failure.text), at step \(failure.step); \(outcome.replay)\n\(outcome.options)")
            }
        }
    }

    @Test("the same seed gives the same run, and another seed another", arguments: 1000..<1010 as Range<UInt64>)
    func determinism(seed: UInt64) {
        let first = SystemSimulation.run(seed: seed)
        #expect(first.traceHash == SystemSimulation.run(seed: seed).traceHash)
        #expect(first.traceHash != SystemSimulation.run(seed: seed + 1).traceHash)
        #expect(first.packetCount > 0)
    }

    /// Seeds within which a mistake must be found.
    private static let patience: UInt64 = 40

    @Test("a device with a mistake is found", arguments: Mutation.allCases)
    func mutations(mutation: Mutation) {
        let found = (0..<Self.patience).first { SystemSimulation.run(seed: $0, mutation: mutation).failure != nil }
        #expect(found != nil, "\(mutation) is not found within \(Self.patience) seeds")
    }
}
