// SPDX-License-Identifier: Apache-2.0
//
// Linux as the reference: a guest that runs this program, which takes scripts on its standard input and answers each
// with a line per call.

import VsockSystem

/// A failure of the tester itself: a line.
struct TesterError: Error, CustomStringConvertible {
    let description: String

    init(_ description: String) { self.description = description }
}

/// A running guest.
final class LinuxReference {
    /// Ends a script, and the answer to one.
    static let end = "."
    private static let scriptSeconds: UInt64 = 60
    private static let bootSeconds: UInt64 = 120

    private let guest: ChildProcess
    private var input: SharedFileDescriptor?
    private let output: SharedFileDescriptor
    private var lines = LineReader()

    /// Boots `kernel` by the command `vsock`. With `throughPackage` it is not the reference but this package's sockets on
    /// the kernel's.
    init(vsock: String, kernel: String, throughPackage: Bool = false) throws(TesterError) {
        do throws(SystemCallError) {
            let inputPipe = try DescriptorIO.makePipe(nonBlocking: false)
            let outputPipe = try DescriptorIO.makePipe(nonBlocking: false)
            guest = try ChildProcess.spawn(
                vsock,
                arguments: [
                    "guest", "--kernel", kernel, "--module", "vsock_loopback", "--", CurrentProcess.executablePath,
                    "answer",
                ] + (throughPackage ? ["--through-package"] : []), standardInput: inputPipe.readEnd.rawValue,
                standardOutput: outputPipe.writeEnd.rawValue)
            input = SharedFileDescriptor(inputPipe.writeEnd)
            output = SharedFileDescriptor(outputPipe.readEnd)
        } catch {
            throw TesterError("\(error)")
        }
        guard try outcomes(of: [], seconds: Self.bootSeconds).isEmpty else {
            throw TesterError("the guest is out of step")
        }
    }

    /// What calls come to in Linux.
    func outcomes(of calls: [SocketCall]) throws(TesterError) -> [String] {
        let outcomes = try outcomes(of: calls, seconds: Self.scriptSeconds)
        guard outcomes.count == calls.count else {
            throw TesterError("the guest answered \(calls.count) calls with \(outcomes.count) lines")
        }
        return outcomes
    }

    /// Ends the guest.
    func stop() throws(TesterError) {
        input = nil
        let status = try? guest.wait(timeoutNanoseconds: 30_000_000_000)
        guard status == .exited(0) else { throw TesterError("the guest ended with \(String(describing: status))") }
    }

    private func outcomes(of calls: [SocketCall], seconds: UInt64) throws(TesterError) -> [String] {
        let text = calls.map { "\($0)\n" }.joined() + Self.end + "\n"
        guard let input, Console.write(text, to: input.rawValue) else { throw TesterError("the guest takes no script") }
        let deadline = MonotonicClock.now() + seconds * 1_000_000_000
        var outcomes: [String] = []
        while let line = try nextLine(deadline) {
            if line == Self.end { return outcomes }
            outcomes.append(line)
        }
        throw TesterError("the guest ended; it had answered \(outcomes.count) of \(calls.count) calls")
    }

    private func nextLine(_ deadline: UInt64) throws(TesterError) -> String? {
        while true {
            if let line = lines.next() { return line }
            let now = MonotonicClock.now()
            let ready = try? DescriptorIO.waitUntilReady(
                output.rawValue, for: .readable, timeoutNanoseconds: deadline > now ? deadline - now : 0)
            guard let ready, !ready.isEmpty else { throw TesterError("the guest does not answer in time") }
            guard lines.read(output.rawValue) else { return nil }
        }
    }
}

/// Lines of a descriptor.
struct LineReader {
    private var pending: [UInt8] = []

    /// A line that is there.
    mutating func next() -> String? {
        guard let end = pending.firstIndex(of: UInt8(ascii: "\n")) else { return nil }
        defer { pending.removeSubrange(...end) }
        return String(decoding: pending[..<end], as: UTF8.self)
    }

    /// Reads what comes; false at the end.
    mutating func read(_ descriptor: Int32) -> Bool {
        var buffer = [UInt8](repeating: 0, count: 65_536)
        let result = buffer.withUnsafeMutableBytes { DescriptorIO.read(descriptor, into: $0) }
        guard case .count(let count) = result, count > 0 else { return false }
        pending += buffer[..<count]
        return true
    }
}
