// SPDX-License-Identifier: Apache-2.0
//
// The built command as a child process with its standard streams in the test's hands. Every wait has a deadline.

import Glibc
import Testing
import VsockSystem
import VsockTestSupport

/// Where the command is: `VSOCK_COMMAND`, or beside the tests.
let commandPath: String = {
    if let path = getenv("VSOCK_COMMAND") { return String(cString: path) }
    var buffer = [UInt8](repeating: 0, count: 4096)
    let count = readlink("/proc/self/exe", &buffer, buffer.count)
    let places = [String(decoding: buffer.prefix(max(0, count)), as: UTF8.self)] + CommandLine.arguments
    for place in places {
        guard let slash = place.lastIndex(of: "/") else { continue }
        let path = place[..<slash] + "/vsock"
        if access(String(path), X_OK) == 0 { return String(path) }
    }
    return "vsock"
}()

/// Whether the command is built with a sanitizer, which keeps what is freed, needs rights at the end that a daemon gives
/// up, and is slow. Scripts/sanitize.sh says so.
let isSanitized = getenv("VSOCK_SANITIZED") != nil
/// Whether it is ThreadSanitizer.
let isThreadSanitized = getenv("VSOCK_SANITIZED").map { String(cString: $0) } == "thread"

/// How a command ended.
struct CommandResult {
    let status: Int32
    let error: String

    /// What it said, if that is one line.
    var errorLine: String? {
        let lines = error.split(separator: "\n", omittingEmptySubsequences: false)
        return lines.count == 2 && lines[1].isEmpty ? String(lines[0]) : nil
    }
}

/// `vsock` with arguments, running until it ends or the object goes.
final class RunningCommand {
    private let child: ChildProcess
    private let errorFile: String
    private let directory: TemporaryDirectory
    private var inputWrite: OwnedFileDescriptor?
    private var outputRead: OwnedFileDescriptor?

    /// Starts it. Standard input is a pipe, or the file at `inputPath`.
    init(_ arguments: [String], inputPath: String? = nil) throws {
        let keepsRights = isSanitized && arguments.first == "serve" && !arguments.contains("--no-sandbox")
        let arguments = keepsRights ? arguments + ["--no-sandbox"] : arguments
        directory = try TemporaryDirectory()
        errorFile = directory.file("stderr")
        let error = OwnedFileDescriptor(owning: open(errorFile, O_WRONLY | O_CREAT | O_CLOEXEC, 0o600))
        let output = try DescriptorIO.makePipe(nonBlocking: false)
        let outputEnd = output.readEnd
        let outputStart = output.writeEnd
        if let inputPath {
            let input = OwnedFileDescriptor(owning: open(inputPath, O_RDONLY | O_CLOEXEC))
            child = try ChildProcess.spawn(
                commandPath, arguments: arguments, standardInput: input.rawValue,
                standardOutput: outputStart.rawValue, standardError: error.rawValue)
        } else {
            let input = try DescriptorIO.makePipe(nonBlocking: false)
            let inputEnd = input.readEnd
            let inputStart = input.writeEnd
            child = try ChildProcess.spawn(
                commandPath, arguments: arguments, standardInput: inputEnd.rawValue,
                standardOutput: outputStart.rawValue, standardError: error.rawValue)
            try DescriptorIO.setNonBlocking(inputStart.rawValue)
            inputWrite = .some(inputStart)
        }
        try DescriptorIO.setNonBlocking(outputEnd.rawValue)
        outputRead = .some(outputEnd)
    }

    deinit {
        try? child.kill(SIGKILL)
        _ = try? child.wait()
    }

    /// The end of standard input that is written to.
    var input: Int32 { inputWrite?.rawValue ?? -1 }
    /// The end of standard output that is read from.
    var output: Int32 { outputRead?.rawValue ?? -1 }

    func closeInput() { inputWrite = nil }
    func closeOutput() { outputRead = nil }

    func kill(_ signal: Int32) throws { try child.kill(signal) }

    var processID: Int32 { child.processID }

    /// What it has said so far.
    func errorSoFar() throws -> String {
        let file = OwnedFileDescriptor(owning: open(errorFile, O_RDONLY | O_CLOEXEC))
        return String(decoding: try readAll(file.rawValue), as: UTF8.self)
    }

    /// Waits for the end.
    func finish() throws -> CommandResult {
        guard let status = try child.wait(timeoutNanoseconds: testDeadline) else {
            Issue.record("the command does not end")
            throw Deadline()
        }
        return CommandResult(status: status.shellStatus, error: try errorSoFar())
    }
}

/// A wait was too long.
struct Deadline: Error {}

extension TemporaryDirectory {
    func file(_ name: String) -> String { "\(path)/\(name)" }

    /// Makes a file.
    func write(_ bytes: [UInt8], to name: String) throws -> String {
        let path = file(name)
        try FileSystem.write(bytes, to: path)
        return path
    }
}
