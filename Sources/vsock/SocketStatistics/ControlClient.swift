// SPDX-License-Identifier: Apache-2.0
//
// Asks a running `vsock serve` on its control socket.

import VsockSystem
import VsockTransport

enum ControlClient {
    private static let timeoutNanoseconds: UInt64 = 10_000_000_000
    /// Far more than all connections of a few VMs take.
    private static let maximumByteCount = 256 << 20

    /// Says a command and returns the lines of the answer, which is complete.
    static func ask(_ command: String, at path: String) throws(Failure) -> [ControlLine] {
        let text: String
        do throws(SystemCallError) {
            let socket = try UnixSocket.connect(to: try UnixAddress(path), type: .stream, nonBlocking: true)
            text = try exchange(command, socket.rawValue)
        } catch {
            throw Failure("\(error): is vsock serve running with --control \(path)?")
        }
        let lines = text.split(separator: "\n").compactMap { ControlLine($0) }
        for case .error(let reason) in lines { throw Failure(reason) }
        guard lines.last == .end else { throw Failure("\(path): the answer is not complete") }
        return lines
    }

    private static func exchange(_ command: String, _ socket: Int32) throws(SystemCallError) -> String {
        let deadline = MonotonicClock.now() + timeoutNanoseconds
        _ = Array((command + "\n").utf8).withUnsafeBytes { DescriptorIO.send(socket, from: $0) }
        var answer: [UInt8] = []
        while answer.count < maximumByteCount {
            let now = MonotonicClock.now()
            let events =
                now < deadline
                ? try DescriptorIO.waitUntilReady(socket, for: .readable, timeoutNanoseconds: deadline - now) : []
            guard !events.isEmpty else { throw SystemCallError(call: "recv", errno: .timedOut) }
            let isAtEnd = withUnsafeTemporaryAllocation(byteCount: 65536, alignment: 16) { buffer in
                switch DescriptorIO.receive(socket, into: buffer) {
                case .count(0), .failed: return true
                case .count(let count):
                    answer += buffer[..<count]
                    return false
                case .wouldBlock: return false
                }
            }
            if isAtEnd { break }
        }
        return String(decoding: answer, as: UTF8.self)
    }
}
