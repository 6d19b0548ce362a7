// SPDX-License-Identifier: Apache-2.0
//
// Scripts: made on the loopback, where each call is seen to be comparable before it is made, and compared afterwards.

import VsockCore
import VsockTransport

/// Calls, and what they came to on this package's sockets: a loopback, unless said otherwise.
struct Script: Equatable {
    private(set) var calls: [SocketCall] = []
    private(set) var outcomes: [String] = []

    /// The script of a seed.
    init(seed: UInt64, callCount: Int) throws(SocketError) {
        var generator = Generator(seed: seed)
        // Many of the calls that are proposed may not be comparable.
        var attemptsLeft = callCount * 4
        try self.init { (connections, made) in
            guard made < callCount, attemptsLeft > 0 else { return nil }
            attemptsLeft -= 1
            return generator.next(connections)
        }
    }

    /// The script of some calls, less those that are not comparable.
    init(comparable calls: [SocketCall]) throws(SocketError) {
        var rest = calls[...]
        try self.init { (_, _) in rest.popFirst() }
    }

    private init(_ next: (ScriptConnections, Int) -> SocketCall?) throws(SocketError) {
        var interpreter = Interpreter(LoopbackScriptedSockets())
        var connections = ScriptConnections()
        while let call = next(connections, calls.count) {
            guard KeptDifference.of(call, connections, interpreter.slots) == nil else { continue }
            let outcome = try interpreter.run(call)
            connections.follow(call, outcome, interpreter.slots)
            calls.append(call)
            outcomes.append(outcome)
        }
        try interpreter.finish()
    }

    /// The same calls with what they came to elsewhere.
    func with(outcomes: [String]) -> Script {
        var script = self
        script.outcomes = outcomes
        return script
    }

    /// What calls come to on some sockets.
    static func outcomes(
        of calls: [SocketCall], on sockets: any ScriptedSockets
    ) throws(SocketError) -> [String] {
        var interpreter = Interpreter(sockets)
        var outcomes: [String] = []
        for call in calls { outcomes.append(try interpreter.run(call)) }
        try interpreter.finish()
        return outcomes
    }

    /// The calls of a script's text: a call in a line, `#` begins a comment. Throws the first line that is none.
    static func parse(_ text: String) throws(ScriptSyntaxError) -> [SocketCall] {
        var calls: [SocketCall] = []
        for line in text.split(whereSeparator: \.isNewline) {
            let words = line.prefix { $0 != "#" }.split(separator: " ").joined(separator: " ")
            guard !words.isEmpty else { continue }
            guard let call = SocketCall(words) else { throw ScriptSyntaxError(line: String(line)) }
            calls.append(call)
        }
        return calls
    }
}

/// A line of a script that is not understood.
struct ScriptSyntaxError: Error, Equatable, CustomStringConvertible {
    let line: String

    var description: String { "not a call: \(line)" }
}

/// Where a script does not do the same in Linux.
struct Difference {
    let script: Script
    /// What the calls came to in Linux.
    let reference: [String]

    /// Nil when there is none.
    init?(_ script: Script, reference: [String]) {
        guard script.outcomes != reference else { return nil }
        self.script = script
        self.reference = reference
    }

    /// The script with what its calls came to, up to the first that differs; it can be replayed.
    var text: String {
        var lines: [String] = []
        for (index, call) in script.calls.enumerated() {
            let outcome = script.outcomes[index]
            let expected = index < reference.count ? reference[index] : "(nothing)"
            guard outcome == expected else {
                lines.append("\(call)  # Linux: \(expected); here: \(outcome)")
                break
            }
            lines.append("\(call)  # \(outcome)")
        }
        return lines.joined(separator: "\n")
    }

    /// The calls up to the first that differs.
    var calls: ArraySlice<SocketCall> {
        let end = zip(script.outcomes, reference).enumerated().first { $0.element.0 != $0.element.1 }?.offset
        return script.calls[...(end ?? script.calls.count - 1)]
    }
}

extension Difference {
    /// The smallest difference that is found by leaving out calls; `compare` runs a script in Linux.
    func shrunk<Failure: Error>(_ compare: (Script) throws(Failure) -> Difference?) throws(Failure) -> Difference {
        var smallest = self
        var step = max(1, smallest.calls.count / 2)
        while true {
            var start = 0
            var isSmaller = false
            while start < smallest.calls.count {
                let calls = Array(smallest.calls)
                let rest = calls[..<start] + calls[min(calls.count, start + step)...]
                if let candidate = try? Script(comparable: Array(rest)), let difference = try compare(candidate),
                    difference.calls.count < calls.count
                {
                    smallest = difference
                    isSmaller = true
                } else {
                    start += step
                }
            }
            if step == 1, !isSmaller { return smallest }
            step = max(1, step / 2)
        }
    }
}
