// SPDX-License-Identifier: Apache-2.0

import Foundation
import Testing
import VsockTestPrograms

/// One program in the guest and one on the host, joined by a connection, run to their ends.
@MainActor
struct Exchange: CustomStringConvertible {
    let guest: [String: Any]
    let host: [String: Any]
    let guestStatus: Int32
    let hostStatus: Int32
    let description: String

    /// Runs `program` on both sides. Who does not connect listens, and is started first.
    init(
        _ shell: GuestShell, program: String, port: Int, isGuestConnecting: Bool, guestOptions: String,
        hostOptions: String, guestCommand: String = "", hostCommand: String = "", seconds: Double = 120
    ) throws {
        let guestAddress = isGuestConnecting ? "vsock:2:\(port)" : "vsock-listen:\(port)"
        let hostAddress = isGuestConnecting ? "uds-listen:\(shell.path)_\(port)" : "uds:\(shell.path):\(port)"
        let inGuest = "/usr/bin/python3 \(program) \(guestCommand) \(guestOptions) \(guestAddress)"
        let onHost =
            ["/usr/bin/python3", "\(Place.programs)/\(program)"]
            + "\(hostCommand) \(hostOptions) \(hostAddress)".split(separator: " ").map(String.init)
        let running: GuestShell.Running
        let hostProgram: Program
        if isGuestConnecting {
            hostProgram = try Program(program, onHost)
            _ = try hostProgram.waitForLine(containing: "listening", seconds: 120)
            running = try shell.start(inGuest)
        } else {
            running = try shell.start(inGuest)
            try shell.wait(for: "listening", of: running, seconds: 120)
            hostProgram = try Program(program, onHost)
        }
        let result = try shell.finish(running, seconds: seconds)
        guestStatus = result.status
        hostStatus = try hostProgram.end(seconds: seconds)
        guest = Self.summary(result.output)
        host = Self.summary(hostProgram.transcript)
        description = "guest (\(guestStatus)): \(result.output) host (\(hostStatus)): \(hostProgram.transcript)"
    }

    /// What one side sent is what the other received.
    func expectEqualDigests() throws {
        for (sender, receiver) in [(guest, host), (host, guest)] {
            let sent = try #require(sender["sent"] as? [String: Any], "\(self)")
            let received = try #require(receiver["received"] as? [String: Any], "\(self)")
            #expect(sent["digest"] as? String == received["digest"] as? String, "\(self)")
            #expect(sent["bytes"] as? Int == received["bytes"] as? Int, "\(self)")
        }
    }

    /// The last line of JSON in a program's output.
    private static func summary(_ output: String) -> [String: Any] {
        for line in output.split(separator: "\n").reversed() {
            if let object = try? JSONSerialization.jsonObject(with: Data(line.utf8)) as? [String: Any] {
                return object
            }
        }
        return [:]
    }
}
