// SPDX-License-Identifier: Apache-2.0
//
// A device and a Linux guest on it, both real: `vsock serve` and `vsock guest`.

import Foundation
import VsockSystem
import VsockTestPrograms
import VsockTestSupport

/// Where the parts of a test are.
enum Place {
    /// The `vsock` command to test: VSOCK_COMMAND, or the one beside the tests.
    static let command: String =
        ProcessInfo.processInfo.environment["VSOCK_COMMAND"].map { absolute($0) }
        ?? URL(fileURLWithPath: CurrentProcess.executablePath).deletingLastPathComponent()
        .appendingPathComponent("vsock").path

    /// The programs that run on either side.
    static let programs = tests.appendingPathComponent("Programs").path

    /// The package.
    static let package = tests.deletingLastPathComponent().deletingLastPathComponent().path

    private static let tests = URL(fileURLWithPath: #filePath).deletingLastPathComponent()

    private static func absolute(_ path: String) -> String {
        URL(fileURLWithPath: path, relativeTo: URL(fileURLWithPath: FileManager.default.currentDirectoryPath)).path
    }
}

/// A `vsock serve` with one VM, and its guest.
final class GuestShell: GuestCommands {
    /// Path of the host's sockets.
    let path: String
    let device: Program
    /// Descriptors of the device when nothing had been done with the guest.
    private var deviceDescriptorCount = 0
    private let directory: TemporaryDirectory

    /// Starts a device with context ID 3 and boots `kernel` on it.
    init(kernel: String) throws {
        directory = try TemporaryDirectory()
        path = directory.path + "/vm"
        let socket = directory.path + "/vm.sock"
        device = try Program(
            "vsock serve",
            [
                Place.command, "serve", "--guest-cid", "3", "--socket", socket, "--uds-path", path,
                "--log-level", "warning",
            ])
        _ = try device.waitForLine(containing: "QEMU", seconds: 120)
        try super.init(kernel: kernel, socket: socket)
        deviceDescriptorCount = try Self.descriptorCount(of: device)
    }

    /// Waits until the device has no more descriptors than before the first command: it closes after the programs.
    func expectNoDescriptorsLeft() throws {
        let deadline = MonotonicClock.now() + testDeadline
        while try Self.descriptorCount(of: device) > deviceDescriptorCount {
            guard MonotonicClock.now() < deadline else {
                let names = try FileManager.default.contentsOfDirectory(atPath: "/proc/\(device.processID)/fd")
                throw ProgramError(
                    description: "descriptors of vsock serve: \(deviceDescriptorCount) before, \(names.count) after")
            }
            sched_yield()
        }
    }

    /// Waits until a program of the host has bound its socket for `port`.
    func awaitSocket(port: Int) throws {
        let deadline = MonotonicClock.now() + testDeadline
        // A connection would be taken for the guest's, so only the file is looked for.
        while FileSystem.kind(of: "\(path)_\(port)") != .socket {
            guard MonotonicClock.now() < deadline else { throw ProgramError(description: "nobody has \(path)_\(port)") }
            sched_yield()
        }
    }

    private static func descriptorCount(of program: Program) throws -> Int {
        try FileManager.default.contentsOfDirectory(atPath: "/proc/\(program.processID)/fd").count
    }

    /// Ends guest and device in order.
    override func stop() throws {
        try super.stop()
        try device.kill(SIGTERM)
        let status = try device.end(seconds: 120)
        guard status == 0 else { throw ProgramError(description: "vsock serve ended with status \(status)") }
    }
}
