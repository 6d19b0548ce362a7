// SPDX-License-Identifier: Apache-2.0
//
// Scripts of the differential tester: their text, that a seed stands for a script, and how a difference is made small.
// Whether Linux does the same is seen in a guest: GuestTests.

import Testing
import VsockSystem
import VsockTestSupport

@testable import differential

@Suite("Scripts of socket calls")
struct ScriptTests {
    @Test("a script's text is the script")
    func text() throws {
        for seed in 1...40 as ClosedRange<UInt64> {
            let script = try Script(seed: seed, callCount: 30)
            let text = script.calls.map { "\($0)  # \(script.outcomes)" }.joined(separator: "\n\n")
            #expect(try Script.parse(text) == script.calls, "seed \(seed)")
        }
    }

    @Test(
        "what is no call is named",
        arguments: [
            "sockets 1 stream", "socket 1 dgram", "socket", "bind 1 any", "bind 1 any -1", "connect 1 local @x",
            "send 1 -5 0", "send 1 5 300", "recv 1 5 trunc peek", "shutdown 1 both", "set 1 size", "set 1 volume 11",
            "poll one", "close 1 2",
        ])
    func noCall(line: String) {
        #expect(throws: ScriptSyntaxError(line: line)) { try Script.parse("socket 1 stream\n\(line)\n") }
    }

    @Test("no text ends the parser")
    func garbage() {
        var random = PRNG(seed: 7)
        let words = ["socket", "connect", "send", "recv", "set", "1", "-1", "99999999999999999999", "@", "@2", "size"]
        for _ in 0..<2000 {
            let text = (0..<random.below(6)).map { _ in random.pick(words) }.joined(separator: " ")
            _ = try? Script.parse(text)
        }
    }

    @Test("a seed stands for the same calls and outcomes, whenever they are made")
    func seeds() throws {
        for seed in 1...20 as ClosedRange<UInt64> {
            let script = try Script(seed: seed, callCount: 40)
            #expect(try Script(seed: seed, callCount: 40) == script, "seed \(seed)")
            #expect(try Script(comparable: script.calls) == script, "seed \(seed)")
        }
    }

    @Test("scripts make every call, and most of them come to something")
    func coverage() throws {
        var verbs: Set<Substring> = []
        var outcomes: [String: Int] = [:]
        for seed in 1...60 as ClosedRange<UInt64> {
            let script = try Script(seed: seed, callCount: 40)
            for (call, outcome) in zip(script.calls, script.outcomes) {
                verbs.formUnion("\(call)".split(separator: " ").prefix(1))
                outcomes[String(outcome.prefix { $0.isLetter || $0 == " " }), default: 0] += 1
            }
        }
        #expect(verbs.count == 16)
        for outcome in ["sent ", "received ", "EAGAIN", "EPIPE", "ECONNRESET", "EMSGSIZE", "EINPROGRESS", "ENODEV"] {
            #expect(outcomes[outcome, default: 0] > 3, "\(outcome) is rare: \(outcomes)")
        }
    }

    @Test("a difference is shrunk to the calls that it takes, and printed so that it can be replayed")
    func shrinking() throws {
        // A Linux that forgets the second byte that it is asked to send.
        func compare(_ script: Script) -> Difference? {
            var sends = 0
            let reference = zip(script.calls, script.outcomes).map { call, outcome in
                guard case .send = call, outcome.hasPrefix("sent") else { return outcome }
                sends += 1
                return sends == 2 ? "lost" : outcome
            }
            return Difference(script, reference: reference)
        }
        let opening = [
            "socket 0 stream", "bind 0 any 5", "listen 0 1", "socket 1 stream", "connect 1 local 5", "accept 0 2",
        ]
        let noise = ["poll 1", "socket 7 seqpacket", "get 1 size", "close 7", "name 0"]
        let calls = try Script.parse(
            (opening + noise + ["send 1 10 0", "send 2 3 0 nowait"] + noise + ["send 1 1 1"]).joined(separator: "\n"))
        let difference = try #require(compare(try Script(comparable: calls)))
        let text = difference.shrunk(compare).text
        #expect(text.hasSuffix("  # Linux: lost; here: sent 3"))
        #expect(try Script.parse(text).count == 8, "\(text)")
        #expect(try Script.parse(text).allSatisfy { calls.contains($0) })
    }

    @Test("differences that are kept have their names in the documentation", arguments: KeptDifference.allCases)
    func documented(difference: KeptDifference) throws {
        let root = #filePath.split(separator: "/").dropLast(3).joined(separator: "/")
        let text = String(decoding: try FileSystem.read("/\(root)/Documentation/Conformance.md"), as: UTF8.self)
        #expect(text.contains("| \(difference.rawValue) |"))
    }
}
