// SPDX-License-Identifier: Apache-2.0
//
// `differential`: the differential tester. Random scripts of socket calls run on this package's loopback and on the
// kernel's, in a guest; what they come to must be the same, but for the differences that Documentation/Conformance.md
// lists. Exit status: 0 no difference, 1 a difference or a failure, 64 usage.

import ArgumentParser
import VsockCore
import VsockSystem

@main
struct DifferentialCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "differential",
        abstract: "Compare this package's sockets with Linux's, call by call, by random scripts.",
        subcommands: [Compare.self, Replay.self, Answer.self], defaultSubcommand: Compare.self)
}

/// Where Linux is found.
struct ReferenceOptions: ParsableArguments {
    @Option(help: "The kernel to boot, as for vsock guest.")
    var kernel = "6.12"

    @Option(help: "The command vsock; by default the one beside this program.")
    var vsock: String?

    func boot(throughPackage: Bool = false) throws -> LinuxReference {
        SignalReceiver.ignoreBrokenPipe()
        let directory = CurrentProcess.executablePath.split(separator: "/").dropLast().joined(separator: "/")
        return try LinuxReference(
            vsock: vsock ?? "/\(directory)/vsock", kernel: kernel, throughPackage: throughPackage)
    }
}

struct Compare: ParsableCommand {
    static let configuration = CommandConfiguration(abstract: "Compare random scripts.")

    @Option(help: "The first script's seed; the next has the next number.")
    var seed: UInt64 = 1

    @Option(help: "Calls to make, in all scripts together.")
    var calls = 100_000

    @Option(help: "Differences to look for before the end.")
    var differences = 1

    @Option(help: "What is compared with Linux: this package's loopback, or its sockets on the kernel's.")
    var subject = Subject.loopback

    @OptionGroup var reference: ReferenceOptions

    enum Subject: String, CaseIterable, ExpressibleByArgument {
        case loopback, kernel
    }

    private static let callsPerScript = 50
    /// Over AF_VSOCK a thread sends what may not wait, and in an emulated guest it may be late: only what shows each time
    /// is a difference.
    private static let kernelAttemptCount = 3

    func run() throws {
        let linux = try reference.boot()
        Console.say("seed \(seed), \(calls) calls, Linux \(reference.kernel)")
        let package = subject == .kernel ? try reference.boot(throughPackage: true) : nil
        func compare(_ script: Script) throws(TesterError) -> Difference? {
            guard let package else { return Difference(script, reference: try linux.outcomes(of: script.calls)) }
            var difference: Difference?
            for _ in 0..<Self.kernelAttemptCount {
                let subject = script.with(outcomes: try package.outcomes(of: script.calls))
                difference = Difference(subject, reference: try linux.outcomes(of: script.calls))
                if difference == nil { break }
            }
            return difference
        }
        var made = 0
        var found = 0
        var next = seed
        while made < calls, found < differences {
            let script = try Script(seed: next, callCount: Self.callsPerScript)
            if let difference = try compare(script) {
                found += 1
                Console.say("\nseed \(next):\n\(try difference.shrunk(compare).text)")
            }
            made += script.calls.count
            next += 1
        }
        try linux.stop()
        try package?.stop()
        Console.say("\(made) calls in \(next - seed) scripts, \(found) differences")
        if found > 0 { throw ExitCode(1) }
    }
}

struct Replay: ParsableCommand {
    static let configuration = CommandConfiguration(abstract: "Run a script from standard input on both.")

    @OptionGroup var reference: ReferenceOptions

    func run() throws {
        var lines = LineReader()
        while lines.read(0) {}
        var text = ""
        while let line = lines.next() { text += line + "\n" }
        let calls = try Script.parse(text)
        let linux = try reference.boot()
        let expected = try linux.outcomes(of: calls)
        let outcomes = try Script.outcomes(of: calls, on: LoopbackScriptedSockets())
        try linux.stop()
        for (call, (outcome, expected)) in zip(calls, zip(outcomes, expected)) {
            Console.say("\(call)  # " + (outcome == expected ? outcome : "Linux: \(expected); here: \(outcome)"))
        }
        if outcomes != expected { throw ExitCode(1) }
    }
}

struct Answer: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Run scripts from standard input on the kernel's loopback.", shouldDisplay: false)

    @Flag(help: "Through this package's sockets on the kernel's, instead of by system calls.")
    var throughPackage = false

    func run() throws {
        let sockets = try KernelScriptedSockets(throughPackage: throughPackage)
        var lines = LineReader()
        var text = ""
        while true {
            guard let line = lines.next() else {
                guard lines.read(0) else { return }
                continue
            }
            guard line == LinuxReference.end else {
                text += line + "\n"
                continue
            }
            let outcomes = try Script.outcomes(of: try Script.parse(text), on: sockets)
            _ = Console.write(outcomes.map { $0 + "\n" }.joined() + LinuxReference.end + "\n", to: 1)
            text = ""
        }
    }
}
