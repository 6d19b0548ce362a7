// SPDX-License-Identifier: Apache-2.0
//
// A device and a Linux guest on it, both real: `vsock serve` and `vsock guest` with a shell in it that takes one
// command after another, so that a guest is booted once for many tests.

import Foundation
import VsockSystem
import VsockTestPrograms

/// Where the parts of a test are.
enum Place {
    /// The `vsock` command to test: VSOCK_COMMAND, or the one beside the tests.
    static let command: String =
        ProcessInfo.processInfo.environment["VSOCK_COMMAND"].map { absolute($0) }
        ?? URL(fileURLWithPath: CurrentProcess.executablePath).deletingLastPathComponent()
        .appendingPathComponent("vsock").path

    /// The programs that run on either side.
    static let programs = URL(fileURLWithPath: #filePath).deletingLastPathComponent()
        .appendingPathComponent("Programs").path

    private static func absolute(_ path: String) -> String {
        URL(fileURLWithPath: path, relativeTo: URL(fileURLWithPath: FileManager.default.currentDirectoryPath)).path
    }
}

/// A `vsock serve` with one VM, and a guest with a shell.
final class GuestShell {
    /// Path of the host's sockets.
    let path: String
    let device: Program
    private let directory: URL
    private let guest: Program
    private var commandCount = 0

    /// Starts a device with context ID 3 and boots `kernel` on it.
    init(kernel: String, deviceOptions: [String] = []) throws {
        directory = FileManager.default.temporaryDirectory.appendingPathComponent(
            "vsock-\(UUID().uuidString.prefix(8))")
        try FileManager.default.createDirectory(at: directory, withIntermediateDirectories: true)
        path = directory.appendingPathComponent("vm").path
        let socket = directory.appendingPathComponent("vm.sock").path
        device = try Program(
            "vsock serve",
            [
                Place.command, "serve", "--guest-cid", "3", "--socket", socket, "--uds-path", path,
                "--log-level", "warning",
            ] + deviceOptions)
        _ = try device.waitForLine(containing: "QEMU", seconds: 10)
        guest = try Program(
            "guest \(kernel)",
            [Place.command, "guest", "--kernel", kernel, "--socket", socket, "--", "/bin/sh"])
        try guest.write("echo booted; cd \(Place.programs)")
        _ = try guest.waitForLine(containing: "booted", seconds: 90)
    }

    deinit { try? FileManager.default.removeItem(at: directory) }

    /// A command in the guest that goes on while the test does something else.
    struct Running {
        fileprivate let number: Int
        let command: String
    }

    /// Starts a command in the guest; its output is kept there until ``finish(_:seconds:)``.
    func start(_ command: String) throws -> Running {
        commandCount += 1
        let running = Running(number: commandCount, command: command)
        try guest.write("(\(command); echo status $?) > /tmp/out.\(commandCount) 2>&1 &")
        return running
    }

    /// Waits until a command that was started has written `text`.
    func wait(for text: String, of running: Running, seconds: Int) throws {
        try guest.write(
            "i=0; until grep -q '\(text)' /tmp/out.\(running.number) || [ $i -ge \(seconds * 10) ]; do i=$((i+1)); "
                + "busybox sleep 0.1; done; grep -q '\(text)' /tmp/out.\(running.number); echo waited $?")
        guard try guest.waitForLine(containing: "waited", seconds: Double(seconds) * 3 + 10) == "waited 0" else {
            try guest.write("cat /tmp/out.\(running.number); echo '--- output'")
            var output = ""
            while let line = try guest.nextLine(seconds: 20), line != "--- output" { output += line + "\n" }
            throw ProgramError(description: "in the guest, \(running.command) did not say \"\(text)\": \(output)")
        }
    }

    /// Waits for a command that was started; its output and status.
    func finish(_ running: Running, seconds: Int) throws -> (output: String, status: Int32) {
        try wait(for: "^status ", of: running, seconds: seconds)
        let mark = "--- \(running.number)"
        try guest.write("cat /tmp/out.\(running.number); echo '\(mark)'; rm /tmp/out.\(running.number)")
        var lines: [String] = []
        while let line = try guest.nextLine(seconds: 20), line != mark { lines.append(line) }
        guard let last = lines.popLast(), last.hasPrefix("status "), let status = Int32(last.dropFirst(7)) else {
            throw ProgramError(description: "the guest's shell is out of step: \(lines)")
        }
        return (lines.joined(separator: "\n"), status)
    }

    /// Runs a command in the guest to its end.
    func run(_ command: String, seconds: Int) throws -> (output: String, status: Int32) {
        try finish(try start(command), seconds: seconds)
    }

    /// Ends guest and device in order.
    func stop() throws {
        try guest.write("exit 0")
        _ = try guest.end(seconds: 30)
        try device.kill(SIGTERM)
        let status = try device.end(seconds: 10)
        guard status == 0 else { throw ProgramError(description: "vsock serve ended with status \(status)") }
    }
}
