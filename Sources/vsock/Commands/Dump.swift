// SPDX-License-Identifier: Apache-2.0
//
// `vsock dump`: a capture as trace lines.

import ArgumentParser
import VsockSystem
import VsockWire

struct Dump: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Print the packets of a capture.",
        discussion: """
            The file is a pcap of vsock packets: of --capture here, or of Linux's vsockmon. Each line is the time since \
            the first packet in seconds and the packet in the format of Linux's trace events; names of flags follow.
            """)

    @Argument(help: ArgumentHelp("The capture; - is standard input.", valueName: "FILE"))
    var file: String

    /// Bytes read at once.
    private static var chunkByteCount: Int { 1 << 16 }

    func run() throws {
        SignalReceiver.ignoreBrokenPipe()
        if file == "-" { return try dump(StandardInput.rawDescriptor, name: "standard input") }
        let input = try FileSystem.open(file)
        try dump(input.rawValue, name: file)
    }

    private func dump(_ descriptor: Int32, name: String) throws {
        var reader = CaptureReader()
        var printer = CapturePrinter()
        var chunk = [UInt8](repeating: 0, count: Self.chunkByteCount)
        do {
            while true {
                switch chunk.withUnsafeMutableBytes({ DescriptorIO.read(descriptor, into: $0) }) {
                case .count(0): return try reader.finish()
                case .count(let count):
                    chunk.withUnsafeBytes { reader.append(UnsafeRawBufferPointer(rebasing: $0[..<count])) }
                    try printer.printPackets(of: &reader)
                case .wouldBlock:
                    _ = try DescriptorIO.waitUntilReady(descriptor, for: .readable, timeoutNanoseconds: nil)
                case .failed(let errno): throw Failure("read \(name): \(errno)")
                }
            }
        } catch let error as CaptureError {
            throw Failure("\(name) \(error)")
        }
    }
}

/// Prints packets as lines.
private struct CapturePrinter {
    private var tracer = PacketTracer()
    private var start: UInt64?

    /// Prints what has been read completely, those before damage included.
    mutating func printPackets(of reader: inout CaptureReader) throws {
        var lines = ""
        var end: CaptureError?
        do throws(CaptureError) {
            while let packet = try reader.next() { lines += line(packet) + "\n" }
        } catch {
            end = error
        }
        try Array(lines.utf8).withUnsafeBytes { try StandardOutput.write($0) }
        if let end { throw end }
    }

    private mutating func line(_ packet: CapturedPacket) -> String {
        let first = start ?? packet.time
        start = first
        let sign = packet.time < first ? "-" : ""
        let (seconds, nanoseconds) = (packet.time < first ? first - packet.time : packet.time - first)
            .quotientAndRemainder(dividingBy: 1_000_000_000)
        let microseconds = "\(1_000_000 + nanoseconds / 1000)".dropFirst()
        return "\(sign)\(seconds).\(microseconds) \(description(packet))"
    }

    private mutating func description(_ packet: CapturedPacket) -> String {
        if let header = packet.header { return tracer.line(header, marker: packet.marker) }
        if let monitor = packet.monitor { return "\(monitor) (no header of virtio)" }
        return "\(packet.bytes.count) of \(packet.byteCount) bytes (no header)"
    }
}
