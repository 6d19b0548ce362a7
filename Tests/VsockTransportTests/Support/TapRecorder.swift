// SPDX-License-Identifier: Apache-2.0
//
// Keeps what a tap sees, and reads captures and what tshark says of them.

import Synchronization
import VirtioQueue
import VsockSystem
import VsockTestSupport
import VsockTransport
import VsockWire

/// A packet that crossed a tap.
struct TappedPacket: Equatable, Sendable {
    var header: PacketHeader
    var payload: [UInt8]
    var isOutgoing: Bool
}

/// Every packet, in order.
final class TapRecorder: PacketTap {
    private let recorded = Mutex<[TappedPacket]>([])

    var packets: [TappedPacket] { recorded.withLock { $0 } }

    func packet(_ header: PacketHeader, _ payload: PacketPayload, isOutgoing: Bool) {
        let bytes = payload.flatMap { UnsafeRawBufferPointer(start: $0.base, count: $0.count) }
        recorded.withLock { $0.append(TappedPacket(header: header, payload: bytes, isOutgoing: isOutgoing)) }
    }
}

/// All packets of a capture that is whole.
func readCapture(_ path: String) throws -> [CapturedPacket] {
    var reader = CaptureReader()
    try FileSystem.read(path).withUnsafeBytes { reader.append($0) }
    var packets: [CapturedPacket] = []
    while let packet = try reader.next() { packets.append(packet) }
    try reader.finish()
    return packets
}

/// Wireshark's view of a capture.
enum Tshark {
    static let path = ["/usr/bin/tshark", "/usr/local/bin/tshark"].first {
        FileSystem.permits(.execute, at: $0)
    }

    /// One line for each packet: these fields, separated by tabs.
    static func fields(_ names: [String], of capture: String, in directory: TemporaryDirectory) throws -> [String] {
        guard let path else { throw TestFailure("tshark is not installed") }
        let output = try DescriptorIO.makePipe(nonBlocking: false)
        let end = output.readEnd
        let start = output.writeEnd
        let errors = try FileSystem.createForOneWriter(directory.file("tshark.err"))
        let child = try ChildProcess.spawn(
            path, arguments: ["-r", capture, "-T", "fields"] + names.flatMap { ["-e", $0] },
            standardOutput: start.rawValue, standardError: errors.rawValue)
        _ = consume start
        var text: [UInt8] = []
        var chunk = [UInt8](repeating: 0, count: 65536)
        reading: while true {
            let ready = try DescriptorIO.waitUntilReady(
                end.rawValue, for: .readable, timeoutNanoseconds: testDeadline)
            guard !ready.isEmpty else { throw TestFailure("tshark says nothing") }
            switch chunk.withUnsafeMutableBytes({ DescriptorIO.read(end.rawValue, into: $0) }) {
            case .count(0): break reading
            case .count(let count): text += chunk[..<count]
            case .wouldBlock: continue
            case .failed(let errno): throw errno
            }
        }
        guard try child.wait(timeoutNanoseconds: testDeadline)?.shellStatus == 0 else {
            throw TestFailure(
                "tshark failed: \(String(decoding: try FileSystem.read(directory.file("tshark.err")), as: UTF8.self))")
        }
        // The newline behind the last line.
        return String(decoding: text, as: UTF8.self).split(separator: "\n", omittingEmptySubsequences: false)
            .dropLast().map(String.init)
    }
}
