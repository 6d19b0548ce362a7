// SPDX-License-Identifier: Apache-2.0
//
// Programs of the tests: real processes with their output in pipes, every wait with a deadline.

import VsockSystem

/// What went wrong with a program, in a line.
public struct ProgramError: Error, CustomStringConvertible {
    /// The line.
    public let description: String

    /// An error with its line.
    public init(description: String) { self.description = description }
}

/// A process whose output is read line by line.
public final class Program {
    /// For messages.
    public let name: String
    private let child: ChildProcess
    private let output: SharedFileDescriptor
    private var input: SharedFileDescriptor?
    private var pending: [UInt8] = []
    /// All output so far, for messages.
    public private(set) var transcript = ""

    /// Starts `arguments`; its standard error goes to this process's.
    public init(_ name: String, _ arguments: [String]) throws {
        self.name = name
        let outputPipe = try DescriptorIO.makePipe(nonBlocking: false)
        let inputPipe = try DescriptorIO.makePipe(nonBlocking: false)
        child = try ChildProcess.spawn(
            arguments[0], arguments: Array(arguments.dropFirst()),
            standardInput: inputPipe.readEnd.rawValue, standardOutput: outputPipe.writeEnd.rawValue,
            newProcessGroup: true)
        output = SharedFileDescriptor(outputPipe.readEnd)
        input = SharedFileDescriptor(inputPipe.writeEnd)
    }

    deinit {
        // Fails for a program that has been waited for.
        try? child.kill(Signal.kill)
        _ = try? child.wait(timeoutNanoseconds: 5_000_000_000)
    }

    /// The next line, without its end; nil at the end of the output.
    public func nextLine(seconds: Double) throws -> String? {
        let deadline = MonotonicClock.now() + UInt64(seconds * 1e9)
        while true {
            if let end = pending.firstIndex(of: UInt8(ascii: "\n")) {
                let line = String(decoding: pending[..<end], as: UTF8.self)
                pending.removeSubrange(...end)
                transcript += line + "\n"
                return line
            }
            let now = MonotonicClock.now()
            guard now < deadline else { throw ProgramError(description: "\(name): no output for \(seconds) s") }
            let ready = try DescriptorIO.waitUntilReady(
                output.rawValue, for: .readable, timeoutNanoseconds: deadline - now)
            guard !ready.isEmpty else { continue }
            var buffer = [UInt8](repeating: 0, count: 65536)
            guard
                case .count(let count) = buffer.withUnsafeMutableBytes({
                    DescriptorIO.read(output.rawValue, into: $0)
                }), count > 0
            else { return nil }
            pending += buffer[..<count]
        }
    }

    /// Lines until one contains `text`, which is returned.
    public func waitForLine(containing text: String, seconds: Double) throws -> String {
        while let line = try nextLine(seconds: seconds) {
            if line.contains(text) { return line }
        }
        throw ProgramError(description: "\(name) ended before it said \"\(text)\": \(transcript)")
    }

    /// Writes a line to its standard input.
    public func write(_ line: String) throws {
        var bytes = Array((line + "\n").utf8)[...]
        while !bytes.isEmpty {
            guard let input,
                case .count(let count) = bytes.withUnsafeBytes({ DescriptorIO.write(input.rawValue, from: $0) })
            else { throw ProgramError(description: "\(name) takes no input") }
            bytes = bytes.dropFirst(count)
        }
    }

    /// Ends its standard input.
    public func closeInput() { input = nil }

    /// Sends it a signal.
    public func kill(_ signal: Int32) throws { try child.kill(signal) }

    /// Waits for its end and returns the status that a shell would give.
    public func end(seconds: Double) throws -> Int32 {
        while try nextLine(seconds: seconds) != nil {}
        guard let status = try child.wait(timeoutNanoseconds: UInt64(seconds * 1e9)) else {
            throw ProgramError(description: "\(name) did not end within \(seconds) s")
        }
        return status.shellStatus
    }

    /// Its process ID.
    public var processID: Int32 { child.processID }
}
