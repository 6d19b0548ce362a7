// SPDX-License-Identifier: Apache-2.0
//
// The fuzzers' targets without a fuzzer: the corpus and what was once found, from Fuzzing, and some inputs of random
// bytes. `make fuzz` looks for more, on the model of the kernel; here they run on Linux, too.

import Foundation
import Testing
import VsockTestSupport

@Suite("Fuzz targets")
struct FuzzReplayTests {
    private static let folder = URL(filePath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
        .deletingLastPathComponent().appending(path: "Fuzzing")

    /// The inputs of a target in one of the folders of Fuzzing; none if there is no such folder.
    private static func files(_ folder: String, _ target: FuzzTarget) -> [URL] {
        let path = Self.folder.appending(path: "\(folder)/\(target.rawValue)").path()
        let names = (try? FileManager.default.contentsOfDirectory(atPath: path)) ?? []
        return names.sorted().map { URL(filePath: path).appending(path: $0) }
    }

    private static func run(_ target: FuzzTarget, _ bytes: [UInt8], _ name: String, on bench: FuzzBench) {
        do {
            try bytes.withUnsafeBytes { try target.run($0, on: bench) }
        } catch {
            Issue.record("\(name): \(error)")
        }
    }

    @Test("hold for every input that is kept", arguments: FuzzTarget.allCases, FuzzBench.Kernel.allCases)
    func kept(target: FuzzTarget, kernel: FuzzBench.Kernel) throws {
        guard target.usesDescriptors || kernel == .linux else { return }
        let corpus = Self.files("Corpus", target)
        #expect(!corpus.isEmpty, "Fuzzing/Corpus/\(target.rawValue) is empty")
        let bench = FuzzBench(kernel)
        for file in corpus + Self.files("FailCases", target) {
            Self.run(target, Array(try Data(contentsOf: file)), file.lastPathComponent, on: bench)
        }
    }

    @Test("hold for random bytes", arguments: FuzzTarget.allCases, FuzzBench.Kernel.allCases)
    func random(target: FuzzTarget, kernel: FuzzBench.Kernel) {
        guard target.usesDescriptors || kernel == .linux else { return }
        let bench = FuzzBench(kernel)
        for seed in 0..<200 as Range<UInt64> {
            var random = PRNG(seed: seed)
            Self.run(target, random.bytes(random.below(600)), "seed \(seed)", on: bench)
        }
    }
}
