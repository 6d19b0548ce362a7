// SPDX-License-Identifier: Apache-2.0
//
// Captures: the tap's header byte by byte, files written and read, and files that are none.

import Testing
import VsockTestSupport
import VsockWire

@Suite("Captures")
struct CaptureTests {
    private static let begin = PacketHeader(
        sourceCID: 3, destinationCID: 2, sourcePort: 0x10000, destinationPort: 1234, payloadByteCount: 8,
        type: .seqpacket, operation: .sequenceBegin, bufferAllocation: 262_144)

    /// A capture with one packet, SEQ_BEGIN of a record of 5 bytes, at 1.000000002 s.
    private static let golden = hexBytes(
        """
        4d3cb2a1 0200 0400 00000000 00000000 4c000100 0f010000
        01000000 02000000 54000000 54000000
        0300000000000000 0200000000000000 00000100 d2040000 0300 0200 2c00 0000
        0300000000000000 0200000000000000 00000100 d2040000 08000000 0200 0800 00000000 00000400 00000000
        00000000 05000000
        """)

    private static func written(_ packets: [CapturedPacket]) -> [UInt8] {
        var file = [UInt8](repeating: 0xee, count: CaptureFormat.fileHeaderByteCount)
        file.withUnsafeMutableBytes {
            CaptureFormat.writeFileHeader(snapLength: CaptureFormat.maximumPacketByteCount, to: $0)
        }
        for packet in packets {
            var header = [UInt8](repeating: 0xee, count: CaptureFormat.recordHeaderByteCount)
            header.withUnsafeMutableBytes {
                CaptureFormat.writeRecordHeader(
                    time: packet.time, capturedByteCount: packet.bytes.count, byteCount: Int(packet.byteCount), to: $0)
            }
            file += header + packet.bytes
        }
        return file
    }

    private static func packet(time: UInt64, _ header: PacketHeader, payload: [UInt8]) -> CapturedPacket {
        var monitor = [UInt8](repeating: 0xee, count: MonitorHeader.byteCount)
        monitor.withUnsafeMutableBytes { MonitorHeader(header).write(to: $0) }
        let bytes = monitor + encoded(header) + payload
        return CapturedPacket(time: time, byteCount: UInt32(bytes.count), bytes: bytes)
    }

    /// Reads a file that comes in pieces of `step` bytes: its packets, and why no more.
    private static func read(_ file: [UInt8], step: Int = .max) -> ([CapturedPacket], CaptureError?) {
        var reader = CaptureReader()
        var packets: [CapturedPacket] = []
        do throws(CaptureError) {
            var rest = file[...]
            while !rest.isEmpty {
                rest.prefix(step).withUnsafeBytes { reader.append($0) }
                rest = rest.dropFirst(step)
                while let packet = try reader.next() { packets.append(packet) }
            }
            try reader.finish()
            return (packets, nil)
        } catch {
            return (packets, error)
        }
    }

    @Test("a file, byte by byte: file header, record header, tap's header, packet")
    func goldenFile() {
        let packet = Self.packet(time: 1_000_000_002, Self.begin, payload: hexBytes("00000000 05000000"))
        #expect(hexText(Self.written([packet])) == hexText(Self.golden))
        let (packets, error) = Self.read(Self.golden)
        #expect(error == nil)
        #expect(packets == [packet])
        #expect(packets.first?.header == Self.begin)
        #expect(packets.first?.marker == SequenceHeader(messageCount: 0, messageByteCount: 5))
        #expect(packets.first?.monitor == MonitorHeader(Self.begin))
    }

    @Test("operations of the tap: record markers are CONTROL, whatever they carry")
    func operations() {
        let operations = (UInt16(0)...10).map { MonitorHeader.Operation(Operation(rawValue: $0)).rawValue }
        #expect(operations == [0, 1, 1, 2, 2, 4, 3, 3, 3, 3, 0])
    }

    @Test("what is written is read, in pieces of any size", arguments: [1, 7, 100, .max])
    func roundTrip(step: Int) {
        let seed: UInt64 = 271
        var random = PRNG(seed: seed)
        let packets = (0..<100).map { _ in
            let payload = random.bytes(random.pick([0, 1, 8, 300]))
            let header = PacketHeader(
                sourceCID: random.next(), destinationCID: random.next(), sourcePort: UInt32(random.below(1 << 32)),
                destinationPort: UInt32(random.below(1 << 32)), payloadByteCount: UInt32(payload.count),
                type: SocketType(rawValue: UInt16(random.below(4))),
                operation: Operation(rawValue: UInt16(random.below(12))), flags: UInt32(random.below(4)),
                bufferAllocation: UInt32(random.below(1 << 32)), forwardedCount: UInt32(random.below(1 << 32)))
            let packet = Self.packet(time: random.next() >> 3, header, payload: payload)
            #expect(packet.header == header)
            #expect(Array(packet.payload) == payload)
            #expect((packet.marker != nil) == (header.isMarker && payload.count == 8))
            return packet
        }
        let (read, error) = Self.read(Self.written(packets), step: step)
        #expect(error == nil)
        #expect(read == packets, "seed \(seed)")
    }

    @Test("either byte order, with microseconds and with nanoseconds", arguments: [false, true], [false, true])
    func variants(isBigEndian: Bool, hasMicroseconds: Bool) {
        var file = Self.golden
        if hasMicroseconds { file.replaceSubrange(0..<4, with: hexBytes("d4c3b2a1")) }
        if isBigEndian {
            for (start, count) in [(0, 4), (4, 2), (6, 2), (16, 4), (20, 4), (24, 4), (28, 4), (32, 4), (36, 4)] {
                file[start..<(start + count)].reverse()
            }
        }
        let (packets, error) = Self.read(file)
        #expect(error == nil)
        #expect(packets.first?.time == (hasMicroseconds ? 1_000_002_000 : 1_000_000_002))
        #expect(packets.first?.header == Self.begin)
    }

    @Test("a file that ends early gives what is whole, and says so", arguments: 0..<golden.count)
    func truncated(byteCount: Int) {
        let expected: CaptureError =
            byteCount < 4 ? .notCapture : byteCount < 24 ? .truncatedHeader : .truncated(wholePackets: 1)
        guard byteCount != 24 else {
            #expect(Self.read(Array(Self.golden[..<24])) == ([], nil))
            return
        }
        if byteCount < 24 {
            #expect(Self.read(Array(Self.golden[..<byteCount])) == ([], expected))
        } else {
            let (packets, error) = Self.read(Self.golden + Self.golden[24..<byteCount])
            #expect(packets.count == 1)
            #expect(error == expected)
        }
    }

    @Test("what is no capture of vsock is refused, and told what it is")
    func foreign() {
        func changed(_ position: Int, _ bytes: String) -> CaptureError? {
            var file = Self.golden
            file.replaceSubrange(position..<(position + hexBytes(bytes).count), with: hexBytes(bytes))
            return Self.read(file).1
        }
        #expect(changed(0, "0a0d0d0a") == .nextGeneration)
        #expect(changed(0, "7f454c46") == .notCapture)
        #expect(changed(4, "0300") == .version(3))
        #expect(changed(20, "01000000") == .linkType(1))
        // The upper bits are not the link type's.
        #expect(changed(23, "14") == nil)
        #expect(changed(32, "01000400") == .oversized(packet: 1, byteCount: 262_145))
        #expect(changed(32, "ffffffff") == .oversized(packet: 1, byteCount: .max))
        #expect(Self.read([]) == ([], .notCapture))
    }

    @Test("a packet of another transport, or cut short, has no header and is no error")
    func partial() {
        let whole = Self.packet(time: 0, Self.begin, payload: hexBytes("00000000 05000000"))
        for byteCount in 0...whole.bytes.count {
            var packet = whole
            packet.bytes = Array(whole.bytes[..<byteCount])
            #expect((packet.monitor != nil) == (byteCount >= 32))
            #expect((packet.header != nil) == (byteCount >= 76))
            #expect((packet.marker != nil) == (byteCount == 84))
            #expect(packet.payload.count == max(0, byteCount - 76))
        }
        for (position, value) in [(26, 1), (28, 43), (28, 0)] as [(Int, UInt8)] {
            var other = whole
            other.bytes[position] = value
            #expect(other.header == nil)
            #expect(other.marker == nil)
        }
        // A longer header: what we do not know of it is not payload.
        var longer = whole
        longer.bytes[28] = 52
        #expect(longer.header == Self.begin)
        #expect(longer.payload.isEmpty)
    }

    @Test("garbage, and captures with changed bytes, end in packets or an error")
    func garbage() {
        let seed: UInt64 = 0xca97
        var random = PRNG(seed: seed)
        for round in 0..<3000 {
            var file = round % 3 == 0 ? random.bytes(random.below(200)) : Self.golden + Self.golden[24...]
            if round % 3 == 1 { file[random.below(file.count)] = UInt8(random.below(256)) }
            if round % 3 == 2 { for _ in 0..<8 { file[24 + random.below(file.count - 24)] = UInt8(random.below(256)) } }
            let (packets, error) = Self.read(file, step: random.within(1...64))
            #expect(packets.count <= file.count / 16, "seed \(seed), round \(round)")
            #expect(error != nil || file.count >= 24, "seed \(seed), round \(round)")
            // Their parts are read from the same bytes.
            for packet in packets { #expect(packet.payload.count <= packet.bytes.count) }
            _ = packets.map { ($0.header, $0.marker, $0.monitor) }
        }
    }

    @Test("say in words why they cannot be read, with the numbers that are wrong")
    func errorTexts() {
        let texts: [(CaptureError, String)] = [
            (.notCapture, "is no packet capture (pcap)"),
            (.nextGeneration, "is a capture in pcapng; convert it: editcap -F pcap OLD NEW"),
            (.version(7), "is a capture in version 7 of pcap; only version 2 is known"),
            (.linkType(1), "has packets of link type 1, not of vsock (271)"),
            (.oversized(packet: 3, byteCount: 262_145), "is damaged: packet 3 has 262145 bytes"),
            (.truncated(wholePackets: 2), "ends in the middle of packet 3"),
            (.truncatedHeader, "ends in the middle of its header"),
        ]
        for (error, text) in texts { #expect(error.description == text) }
    }

    @Test("a packet of which only the tap's header is known has a line with the operation's name of Linux")
    func monitorLines() {
        let operations: [(VsockWire.Operation, String)] = [
            (.invalid, "UNKNOWN"), (.request, "CONNECT"), (.reset, "DISCONNECT"), (.creditUpdate, "CONTROL"),
            (.readWrite, "PAYLOAD"),
        ]
        for (operation, name) in operations {
            var header = Self.begin
            header.operation = operation
            #expect("\(MonitorHeader(header))" == "3:65536 -> 2:1234 op=\(name) transport=2")
        }
        #expect("\(MonitorHeader.Operation(rawValue: 0x1f))" == "0x1f")
    }
}
