// SPDX-License-Identifier: Apache-2.0
//
// Bytes and values of VsockWire: what is decoded is encoded to the same bytes, text can be made of anything, and a
// capture is the same capture in whatever pieces it comes.

import VsockWire

enum WireFuzz {
    static func run(_ input: inout FuzzInput) throws(FuzzFinding) {
        var tracer = PacketTracer()
        while !input.isEmpty {
            switch input.below(6) {
            case 0: try header(&input, &tracer)
            case 1: try marker(&input)
            case 2: try configuration(&input)
            case 3: try monitorHeader(&input)
            case 4: try capture(Array(input.take(1 + Int(input.integer(UInt16.self) % 2048))), &input)
            default: try capture(writtenCapture(&input), &input)
            }
        }
    }

    private static func header(_ input: inout FuzzInput, _ tracer: inout PacketTracer) throws(FuzzFinding) {
        let bytes = input.padded(PacketHeader.byteCount)
        let short = bytes.withUnsafeBytes { PacketHeader(UnsafeRawBufferPointer(rebasing: $0[..<43])) }
        try expect(short == nil, "a short header is none")
        guard let header = bytes.withUnsafeBytes({ PacketHeader($0) }) else { throw FuzzFinding("44 bytes, no header") }
        try expect(encoded(PacketHeader.byteCount, header.write) == bytes, "a header is encoded as it was decoded")
        try expect(!header.traceLine().isEmpty && !tracer.line(header).isEmpty, "a header has a line")
        guard let reset = header.resetWithoutSocket else {
            return try expect(header.operation == .reset, "only a reset is not answered")
        }
        try expect(reset.resetWithoutSocket == nil, "a reset is not answered")
        try expect(
            reset.sourceCID == header.destinationCID && reset.destinationPort == header.sourcePort
                && reset.payloadByteCount == 0, "a reset goes back to where the packet came from")
    }

    private static func marker(_ input: inout FuzzInput) throws(FuzzFinding) {
        let bytes = input.padded(input.below(10))
        let marker = bytes.withUnsafeBytes { SequenceHeader($0) }
        try expect((marker != nil) == (bytes.count == SequenceHeader.byteCount), "a marker has 8 bytes")
        guard let marker else { return }
        try expect(encoded(SequenceHeader.byteCount, marker.write) == bytes, "a marker is encoded as it was decoded")
    }

    private static func configuration(_ input: inout FuzzInput) throws(FuzzFinding) {
        let bytes = input.padded(input.below(10))
        if let configuration = bytes.withUnsafeBytes({ DeviceConfiguration($0) }) {
            try expect(configuration.bytes == Array(bytes[..<8]), "a configuration is encoded as it was decoded")
        }
        if let event = bytes.withUnsafeBytes({ DeviceEvent($0) }) {
            try expect(encoded(DeviceEvent.byteCount, event.write) == Array(bytes[..<4]), "events likewise")
        }
    }

    private static func monitorHeader(_ input: inout FuzzInput) throws(FuzzFinding) {
        let bytes = input.padded(input.below(40))
        guard let header = bytes.withUnsafeBytes({ MonitorHeader($0) }) else {
            return try expect(bytes.count < MonitorHeader.byteCount, "32 bytes are a header")
        }
        // Reserved bytes are not kept.
        let again = encoded(MonitorHeader.byteCount, header.write).withUnsafeBytes { MonitorHeader($0) }
        try expect(again == header && !"\(header.operation) \(header.transport)".isEmpty, "a header is kept")
    }

    // MARK: Captures

    /// A capture with whole headers, whose fields are not all right.
    private static func writtenCapture(_ input: inout FuzzInput) -> [UInt8] {
        var file = encoded(CaptureFormat.fileHeaderByteCount) {
            CaptureFormat.writeFileHeader(snapLength: 65_535, to: $0)
        }
        if input.flag() { file[input.below(file.count)] = input.byte() }
        for _ in 0..<input.below(5) {
            let packet = Array(input.take(input.below(200)))
            for word in [UInt32(input.byte()), input.integer(), UInt32(packet.count), UInt32(input.byte())] {
                withUnsafeBytes(of: word.littleEndian) { file += $0 }
            }
            if input.below(8) == 0 { file[file.count - 8 + input.below(8)] = input.byte() }
            file += packet
        }
        return file
    }

    private static func capture(_ file: [UInt8], _ input: inout FuzzInput) throws(FuzzFinding) {
        let whole = read(file, inPiecesOf: file.count)
        let pieces = read(file, inPiecesOf: 1 + input.below(64))
        try expect(whole == pieces, "the pieces in which a capture comes make no difference")
        for packet in whole.packets {
            let text =
                "\(packet.monitor.map { "\($0)" } ?? "") \(packet.header?.traceLine(marker: packet.marker) ?? "")"
            try expect(text.utf8.count > 0 && packet.payload.count <= packet.bytes.count, "a packet can be looked at")
        }
    }

    private struct ReadCapture: Equatable {
        var packets: [CapturedPacket] = []
        var error: CaptureError?
    }

    private static func read(_ file: [UInt8], inPiecesOf count: Int) -> ReadCapture {
        var reader = CaptureReader()
        var result = ReadCapture()
        var position = 0
        do throws(CaptureError) {
            while position < file.count {
                let end = min(file.count, position + max(1, count))
                file[position..<end].withUnsafeBytes { reader.append($0) }
                position = end
                while let packet = try reader.next() { result.packets.append(packet) }
            }
            try reader.finish()
        } catch {
            result.error = error
        }
        return result
    }

    private static func encoded(_ count: Int, _ write: (UnsafeMutableRawBufferPointer) -> Void) -> [UInt8] {
        var bytes = [UInt8](repeating: 0, count: count)
        bytes.withUnsafeMutableBytes { write($0) }
        return bytes
    }
}
