// SPDX-License-Identifier: Apache-2.0
//
// Runs one side of a suite (Linux: run_tests in tools/testing/vsock/util.c): before each case both sides say NEXT, or
// SKIP if one of them leaves it out.

import Vsock

/// Which half of the cases a side runs.
enum TestMode: String, CaseIterable, Sendable {
    case client
    case server
}

/// See the top of the file.
struct TestRunner: Sendable {
    let suite: TestSuite
    let mode: TestMode
    let side: TestSide
    /// Numbers of the cases to leave out.
    let skipped: Set<Int>
    /// Whether it tells how it goes.
    let isQuiet: Bool

    /// Runs all cases; the first that fails ends it.
    func run() throws {
        for (number, test) in suite.cases.enumerated() {
            begin("\(number) - \(test.name)...")
            do {
                end(try run(number, test))
            } catch {
                end("failed")
                throw error is ControlFailure ? error : Failure("\(test.name): \(error)")
            }
        }
        guard suite.endsTogether else { return }
        begin("All tests have been executed. Waiting other peer...")
        try side.control.write("COMPLETED")
        try side.control.expect("COMPLETED")
        end("ok")
    }

    /// The outcome, in a word or two.
    private func run(_ number: Int, _ test: TestCase) throws -> String {
        let reason = skipped.contains(number) ? "" : side.transport.lacks(test.needs)
        try side.control.write(reason == nil ? "NEXT" : "SKIP")
        let line = try side.control.read()
        if let reason { return reason.isEmpty ? "skipped" : "skipped: \(reason)" }
        if line == "SKIP" { return "skipped" }
        guard line == "NEXT" else {
            throw ControlFailure("\"\(line)\" came on the control connection, not \"NEXT\": is that the same suite?")
        }
        try (mode == .client ? test.client : test.server)?(side)
        return "ok"
    }

    private func begin(_ text: String) {
        if !isQuiet { Console.begin(text) }
    }

    private func end(_ text: String) {
        if !isQuiet { Console.say(text) }
    }
}

extension VsockTransport {
    /// Why a case cannot be run over it; nil if it can.
    func lacks(_ needs: Set<TestNeed>) -> String? {
        switch kind {
        case .uds:
            if needs.contains(.endOfRecord) { return "Unix sockets carry no MSG_EOR" }
            if needs.contains(.bufferSize) || needs.contains(.recordLimit) {
                return "the device decides about the buffers of hybrid sockets"
            }
            if needs.contains(.localPort) { return "hybrid sockets choose no port to connect from" }
            return nil
        case .loopback(.rfcV5), .driver(_, .rfcV5), .device(_, _, .rfcV5):
            return needs.contains(.recordLimit) ? "records in the RFC v5 framing may be larger than the buffer" : nil
        case .loopback, .driver, .device, .kernel: return nil
        }
    }
}
