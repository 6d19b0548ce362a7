// SPDX-License-Identifier: Apache-2.0
//
// A guest with a program in it (guest_commands.py) that runs one command after another, so that it is booted once for
// many of them.

import VsockSystem
import VsockTestPrograms

/// A guest that runs commands.
@MainActor
class GuestCommands {
    let kernel: String
    private let guest: Program
    private var commandCount = 0
    private var lines: [Int: [String]] = [:]
    private var statuses: [Int: Int32] = [:]

    /// Boots `kernel` on the device of `socket`.
    init(kernel: String, socket: String) throws {
        self.kernel = kernel
        guest = try Program(
            "guest \(kernel)",
            [
                Place.command, "guest", "--kernel", kernel, "--socket", socket, "--",
                "/bin/sh", "-c", "cd '\(Place.programs)' && exec /usr/bin/python3 guest_commands.py",
            ])
        _ = try guest.waitForLine(containing: "ready", seconds: 120)
    }

    /// A command in the guest that goes on while the test does something else.
    struct Running {
        fileprivate let number: Int
        let command: String
    }

    /// Starts a command in the guest; its output is kept here until ``finish(_:seconds:)``.
    func start(_ command: String) throws -> Running {
        commandCount += 1
        try guest.write("\(commandCount) \(command)")
        return Running(number: commandCount, command: command)
    }

    /// Waits until a command that was started has written a line with `text`.
    func wait(for text: String, of running: Running, seconds: Double) throws {
        try receive("did not say \"\(text)\"", running, seconds: seconds) {
            lines[running.number, default: []].contains { $0.contains(text) }
        }
    }

    /// Waits for a command that was started; its output and status.
    func finish(_ running: Running, seconds: Double) throws -> (output: String, status: Int32) {
        try receive("did not end", running, seconds: seconds) { statuses[running.number] != nil }
        let output = lines.removeValue(forKey: running.number) ?? []
        return (output.joined(separator: "\n"), statuses.removeValue(forKey: running.number) ?? -1)
    }

    /// Runs a command in the guest to its end.
    func run(_ command: String, seconds: Double) throws -> (output: String, status: Int32) {
        try finish(try start(command), seconds: seconds)
    }

    /// Takes what the guest's commands write, until it is what is waited for.
    private func receive(
        _ failure: String, _ running: Running, seconds: Double, until isReached: () -> Bool
    ) throws {
        let deadline = MonotonicClock.now() + UInt64(seconds * 1e9)
        while !isReached() {
            let now = MonotonicClock.now()
            guard now < deadline, let line = try? guest.nextLine(seconds: Double(deadline - now) / 1e9) else {
                let output = lines[running.number, default: []].joined(separator: "\n")
                throw ProgramError(
                    description: "in the guest, \(running.command) \(failure) within \(seconds) s: \(output)")
            }
            let digits = line.prefix { $0.isNumber }
            let rest = line.dropFirst(digits.count)
            guard let number = Int(digits) else { continue }
            if rest.hasPrefix(": ") { lines[number, default: []].append(String(rest.dropFirst(2))) }
            if rest.hasPrefix(" status ") { statuses[number] = Int32(rest.dropFirst(8)) }
        }
    }

    /// Sends all processes of the guest a signal: SIGSTOP stops its processor, SIGCONT lets it go on.
    func signal(_ signal: Int32) throws { try guest.kill(signal) }

    /// Ends the guest in order.
    func stop() throws {
        guest.closeInput()
        guard try guest.end(seconds: 120) == 0 else { throw ProgramError(description: "\(guest.transcript)") }
    }
}
