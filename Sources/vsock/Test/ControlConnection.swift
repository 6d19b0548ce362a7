// SPDX-License-Identifier: Apache-2.0
//
// The connection that keeps the two sides of a test in step, by lines of text (Linux: tools/testing/vsock/control.c).

import VsockSystem

/// One end of it. Used by one thread.
final class ControlConnection: Sendable {
    /// Longer lines are none of ours.
    private static let maximumLineByteCount = 128

    private let descriptor: SharedFileDescriptor

    /// Takes over a connected stream socket.
    init(_ descriptor: consuming OwnedFileDescriptor) { self.descriptor = SharedFileDescriptor(descriptor) }

    /// Sends a line.
    func write(_ line: String) throws {
        var bytes = Array((line + "\n").utf8)[...]
        while !bytes.isEmpty {
            switch bytes.withUnsafeBytes({ DescriptorIO.send(descriptor.rawValue, from: $0) }) {
            case .count(let count): bytes = bytes.dropFirst(count)
            case .wouldBlock: try wait(for: .writable, "take \"\(line)\"")
            case .failed(let errno): throw ControlFailure("the control connection broke: \(errno)")
            }
        }
    }

    /// Waits for a line.
    func read() throws -> String {
        var line: [UInt8] = []
        while true {
            var byte: UInt8 = 0
            switch withUnsafeMutableBytes(of: &byte, { DescriptorIO.receive(descriptor.rawValue, into: $0) }) {
            case .count(0): throw ControlFailure("the other side ended the control connection")
            case .count:
                if byte == UInt8(ascii: "\n") { return String(decoding: line, as: UTF8.self) }
                guard line.count < Self.maximumLineByteCount else {
                    throw ControlFailure("a line without end came on the control connection: is that vsock_test?")
                }
                line.append(byte)
            case .wouldBlock: try wait(for: .readable, "send a line")
            case .failed(let errno): throw ControlFailure("the control connection broke: \(errno)")
            }
        }
    }

    /// Waits for this line.
    func expect(_ expected: String) throws {
        let line = try read()
        guard line == expected else {
            throw ControlFailure("\"\(line)\" came on the control connection, not \"\(expected)\"")
        }
    }

    /// Waits for a number.
    func readNumber() throws -> UInt64 {
        let line = try read()
        guard let number = UInt64(line) else {
            throw ControlFailure("\"\(line)\" came on the control connection, not a number")
        }
        return number
    }

    /// Ends the connection, so that the other side does not wait for the rest.
    func close() { try? SocketOptions.shutdown(descriptor.rawValue, .both) }

    private func wait(for events: PollEvents, _ what: String) throws {
        let ready = try DescriptorIO.waitUntilReady(
            descriptor.rawValue, for: events, timeoutNanoseconds: TestSide.waitNanoseconds)
        guard !ready.isEmpty else {
            throw ControlFailure("the other side did not \(what) within \(TestSide.waitNanoseconds / 1_000_000_000) s")
        }
    }
}

/// The two sides are out of step: mostly because the other one has failed and says why.
struct ControlFailure: Error, CustomStringConvertible {
    let description: String

    init(_ description: String) { self.description = description }
}
