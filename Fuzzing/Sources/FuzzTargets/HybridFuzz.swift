// SPDX-License-Identifier: Apache-2.0
//
// What host programs say, and what a program reads of a device: CONNECT lines in any pieces, answers, control lines.

import VsockSystem
import VsockWire

@testable import VsockTransport

enum HybridFuzz {
    static func run(_ input: inout FuzzInput) throws(FuzzFinding) {
        while !input.isEmpty {
            switch input.below(4) {
            case 0: try command(Array(input.take(input.below(70))))
            case 1: try command(spelledCommand(&input))
            case 2: try answer(&input)
            default: try controlLine(&input)
            }
        }
    }

    /// A command that is nearly one.
    static func spelledCommand(_ input: inout FuzzInput) -> [UInt8] {
        var line: [UInt8] = []
        func appendBlanks() { for _ in 0..<input.below(4) { line.append(input.pick([32, 32, 9, 13])) } }
        appendBlanks()
        line += Array(input.pick(["CONNECT", "connect", "Connect", "CONNEC", "CONNECTT", ""]).utf8)
        line.append(32)
        appendBlanks()
        if input.below(4) == 0 { line += Array(input.pick(["+", "-", "0", "++"]).utf8) }
        line += Array(String(input.below(4) == 0 ? input.number() : UInt64(input.integer(UInt16.self))).utf8)
        appendBlanks()
        if input.below(8) == 0 { line.append(input.byte()) }
        return line
    }

    /// The parser against the rules of its grammar, said in another way.
    private static func command(_ line: [UInt8]) throws(FuzzFinding) {
        let port = try? ConnectCommand.parse(line)
        guard line.allSatisfy({ $0 < 0x80 }) else { return try expect(port == nil, "a command is ASCII") }
        let words = line.split { [32, 9, 13].contains($0) }.map { String(decoding: $0, as: UTF8.self) }
        var expected: UInt32?
        if words.count == 2, words[0].uppercased() == "CONNECT" {
            let digits = words[1].hasPrefix("+") ? words[1].dropFirst() : words[1][...]
            if !digits.isEmpty, digits.utf8.allSatisfy({ (48...57).contains($0) }) { expected = UInt32(digits) }
            if expected == .max { expected = nil }
        }
        try expect(port == expected, "\(words): \(port.map { "\($0)" } ?? "refused")")
        if let port {
            try expect(
                DescriptorSocket.acceptedPort(ConnectCommand.answer(hostPort: port)) == port, "an answer is read")
        }
    }

    private static func answer(_ input: inout FuzzInput) throws(FuzzFinding) {
        let start = Array(input.pick(["OK ", "OK", "ok ", ""]).utf8)
        let answer = start + Array(input.take(input.below(20)))
        guard let port = DescriptorSocket.acceptedPort(answer) else { return }
        try expect(answer.starts(with: Array("OK ".utf8)), "an answer begins with OK: \(port)")
    }

    private static func controlLine(_ input: inout FuzzInput) throws(FuzzFinding) {
        var text = String(decoding: input.take(input.below(100)), as: UTF8.self)
        if input.flag() {
            let state = input.pick(SocketEntry.State.allCases).rawValue
            let words = (0..<6).map { _ in "\(input.number())" }
            text =
                "socket \(input.pick(["stream", "seqpacket", "x"])) \(state) \(words[0]):\(words[1]) "
                + "2:\(words[2]) \(words[3]) \(words[4]) \(words[5]) 0"
        }
        guard let line = ControlLine(text) else { return }
        let written = line.text.utf8
        try expect(written.count { $0 == 10 } == 1 && written.last == 10, "a line is one line")
        guard !text.utf8.contains(10) else { return }
        try expect(
            ControlLine(String(decoding: written.dropLast(), as: UTF8.self)) == line, "\(text) is read as written")
    }
}
