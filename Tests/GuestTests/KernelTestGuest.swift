// SPDX-License-Identifier: Apache-2.0
//
// A guest that runs the kernel's vsock_test. It has no network: the control connection goes through its standard input
// and output (kernel_test.py).

import Foundation
import Testing
import VsockSystem

/// One side of a run of vsock_test.
final class KernelTestGuest {
    /// Longest time for a run, in seconds.
    static let seconds = 300.0

    private let program: KernelTestProgram
    private let child: ChildProcess
    private let log: String

    /// Boots `kernel` on a device and starts `program` there, as "client" or "server" of the machine `peerCID`.
    init(
        _ program: KernelTestProgram, kernel: String, mode: String, peerCID: UInt32, socket: String,
        control: borrowing OwnedFileDescriptor, _ directory: TemporaryDirectory
    ) throws {
        self.program = program
        log = "\(directory.path)/\(mode).log"
        _ = FileManager.default.createFile(atPath: log, contents: nil)
        let errors = try FileSystem.open(log, forWriting: true)
        try DescriptorIO.setNonBlocking(control.rawValue, false)
        child = try ChildProcess.spawn(
            Place.command,
            arguments: [
                "guest", "--kernel", kernel, "--socket", socket, "--timeout", "\(Int(Self.seconds))", "--",
                "/usr/bin/python3", "\(Place.programs)/kernel_test.py", program.path, mode,
                "--peer-cid", "\(peerCID)",
            ],
            standardInput: control.rawValue, standardOutput: control.rawValue, standardError: errors.rawValue,
            newProcessGroup: true)
    }

    deinit {
        // Fails for a program that has been waited for.
        try? child.kill(SIGKILL)
        _ = try? child.wait(timeoutNanoseconds: 5_000_000_000)
    }

    /// All cases have passed; their lines.
    @discardableResult
    func expectPassed() throws -> [Substring] {
        let status = try child.wait(timeoutNanoseconds: UInt64(Self.seconds * 1e9))
        let said = try String(contentsOfFile: log, encoding: .utf8)
        #expect(status?.shellStatus == 0, "\(said)")
        let passed = said.split(separator: "\n").filter { $0.first?.isNumber == true && $0.hasSuffix("...ok") }
        #expect(passed.count == program.caseCount, "\(said)")
        return passed
    }
}
