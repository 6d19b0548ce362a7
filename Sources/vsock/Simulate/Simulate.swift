// SPDX-License-Identifier: Apache-2.0
//
// `vsock simulate`: whole systems on virtual time, with faults; a seed that fails is repeated with one command.

import ArgumentParser
import VsockSimulation

struct Simulate: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Run whole systems on virtual time, with faults drawn from a seed.",
        discussion: """
            Guests, the devices of a daemon and programs on the host run on one thread over a model of the kernel: who \
            acts next, what fails and when is drawn from the seed, and the same seed gives the same run. Bytes, record \
            boundaries, credit, descriptors and slots are checked; then faults stop and everything must end. With \
            --seeds that many seeds run, from --seed on, until one fails.
            """)

    @Option(help: "The seed, or the first of them.")
    var seed: UInt64 = 1

    @Option(help: "Steps with faults, before everything must end.")
    var steps = SystemSimulation.defaultStepCount

    @Option(help: "How many seeds to run.")
    var seeds: UInt64 = 1

    func validate() throws {
        guard steps >= 0 else { throw ValidationError("--steps \(steps) is negative") }
        guard seeds > 0 else { throw ValidationError("--seeds must be at least 1") }
        guard seed <= .max - (seeds - 1) else {
            throw ValidationError("--seed \(seed) has no \(seeds) seeds behind it")
        }
    }

    func run() throws {
        var packetCount = 0
        // All of them in one number: two runs of the same seeds are compared with it.
        var hash: UInt64 = 0
        for index in 0..<seeds {
            let outcome = SystemSimulation.run(seed: seed + index, stepCount: steps)
            packetCount += outcome.packetCount
            hash = (hash &* 0x0000_0100_0000_01b3) ^ outcome.traceHash
            if let failure = outcome.failure {
                Console.say("seed \(outcome.seed): \(outcome.options)")
                throw Failure(
                    "seed \(outcome.seed) fails at step \(failure.step): \(failure.text); repeat it with: "
                        + outcome.replay)
            }
            if seeds == 1 { Console.say("seed \(outcome.seed): \(outcome.options)") }
            if (index + 1) % 10_000 == 0 { Console.say("\(index + 1) seeds") }
        }
        let digits = String(hash, radix: 16)
        Console.say(
            "\(seeds) seed\(seeds == 1 ? "" : "s"), \(packetCount) packets, all well; trace "
                + String(repeating: "0", count: 16 - digits.count) + digits)
    }
}
