// SPDX-License-Identifier: Apache-2.0
//
// Taps of a device, and captures: what they see is what crossed the queues, and watching does no harm.

import Logging
import Testing
import VirtioQueue
import VsockCore
import VsockSystem
import VsockWire

@testable import VsockTransport

@Suite("Taps and captures")
struct PacketCaptureTests {
    private let directory: TemporaryDirectory
    private let log = LogRecorder()

    init() throws { directory = try TemporaryDirectory() }

    /// Streams and records of several sizes between a guest and a host program, there and back.
    private func exchange(_ guest: SocketDriver, _ device: TestDevice, _ type: UnixSocketType) throws {
        let listener = try device.listen(type, port: 5000)
        let socket = guest.makeSocket(type == .stream ? .stream : .seqpacket)
        try socket.connect(to: VsockAddress(cid: .host, port: 5000))
        let host = try listener.take()
        // Larger than a buffer of the guest, and than a packet; empty records are left to the framing's own tests.
        for byteCount in [1, 8, 5000, 150_000] {
            let data = pattern(byteCount, seed: byteCount)
            let echo = try Background {
                let received =
                    type == .stream ? try host.receive(exactly: byteCount) : try host.receive() ?? []
                try host.send(received)
            }
            let sent = try data.withUnsafeBytes { try socket.send($0, SendOptions(endOfRecord: type == .seqpacket)) }
            #expect(sent == byteCount)
            var received: [UInt8] = []
            var buffer = [UInt8](repeating: 0, count: 1 << 18)
            while received.count < byteCount {
                let result = try buffer.withUnsafeMutableBytes { try socket.receive(into: $0) }
                try #require(result.count > 0)
                received += buffer[..<result.count]
            }
            #expect(received == data)
            try echo.value()
        }
        socket.close()
        #expect(try host.receive() == nil)
    }

    /// A device with a capture and a recorder; what crosses between it and a driver, as both of them saw it.
    private func record(
        _ mode: SeqpacketMode, to path: String
    ) throws -> (device: [TappedPacket], driver: [TappedPacket]) {
        let onDevice = TapRecorder()
        let onDriver = TapRecorder()
        let capture = try PacketCapture(path: path, log: log.logger)
        let device = try TestDevice {
            $0.seqpacket = mode
            $0.tap = PacketTapGroup.joining([onDevice, nil, capture])
        }
        let guest = try SocketDriver(path: device.socketPath)
        guest.setTap(onDriver)
        try eventually { try device.inspect { $0.isReady } }
        try exchange(guest, device, .stream)
        try exchange(guest, device, .seqpacket)
        // Nobody listens there.
        let refused = guest.makeSocket(.seqpacket)
        #expect(throws: SocketError.connectionReset) { try refused.connect(to: VsockAddress(cid: .host, port: 1)) }
        try eventually { try device.connectionCount() == 0 }
        // Without a further packet: what is in the file was written when its batch ended.
        let written = try FileSystem.read(path).count
        guest.stop()
        device.stop()
        capture.finish()
        #expect(try FileSystem.read(path).count == written)
        return (onDevice.packets, onDriver.packets)
    }

    @Test(
        "a device's tap sees each packet of both queues once, as the driver does",
        arguments: [SeqpacketMode.standard, .rfcV5])
    func bothEnds(mode: SeqpacketMode) throws {
        let (device, driver) = try record(mode, to: directory.file("c"))
        for isOutgoing in [false, true] {
            let ours = device.filter { $0.isOutgoing == isOutgoing }
            let theirs = driver.filter { $0.isOutgoing != isOutgoing }
            #expect(ours.count == theirs.count)
            #expect(ours.map(\.header) == theirs.map(\.header))
            #expect(ours.map(\.payload) == theirs.map(\.payload))
        }
        #expect(device.contains { $0.isOutgoing && $0.header.payloadByteCount > 0 })
        #expect(device.contains { $0.header.operation == .sequenceBegin } == (mode == .rfcV5))
    }

    @Test("a capture has every packet whole and in order", arguments: [SeqpacketMode.standard, .rfcV5])
    func complete(mode: SeqpacketMode) throws {
        let (tapped, _) = try record(mode, to: directory.file("c"))
        let captured = try readCapture(directory.file("c"))
        #expect(captured.map(\.header) == tapped.map(\.header))
        #expect(captured.map { Array($0.payload) } == tapped.map(\.payload))
        #expect(captured.map(\.monitor) == tapped.map { MonitorHeader($0.header) })
        #expect(captured.allSatisfy { Int($0.byteCount) == $0.bytes.count })
        #expect(zip(captured, captured.dropFirst()).allSatisfy { $0.time <= $1.time })
        #expect(directory.mode("c") == 0o600)
        let markers = captured.compactMap(\.marker)
        #expect(markers.isEmpty == (mode == .standard))
        #expect(mode == .standard || markers.contains { $0.messageByteCount == 150_000 })
        #expect(log.lines == [])
    }

    @Test(
        "tshark finds no packet malformed, and reads what the trace lines say",
        .enabled(if: Tshark.path != nil, "tshark is not installed; Scripts/setup.sh does it"),
        arguments: [SeqpacketMode.standard, .rfcV5])
    func tshark(mode: SeqpacketMode) throws {
        let (tapped, _) = try record(mode, to: directory.file("c"))
        let virtio = [
            "src_cid", "src_prot", "dst_cid", "dst_prot", "len", "type", "op", "flags", "buf_alloc", "fwd_cnt",
        ]
        let names =
            ["_ws.malformed", "frame.protocols", "vsock.op", "vsock.trans", "vsock.trans_len"]
            + virtio.map { "vsock.virtio.\($0)" }
        let lines = try Tshark.fields(names, of: directory.file("c"), in: directory)
        try #require(lines.count == tapped.count)
        for (line, packet) in zip(lines, tapped) {
            let fields = line.split(separator: "\t", omittingEmptySubsequences: false).map(String.init)
            try #require(fields.count == names.count, "\(line)")
            #expect(fields[0] == "", "malformed: \(line)")
            #expect(fields[1] == "vsock", "\(line)")
            #expect(fields[2...4] == ["\(MonitorHeader(packet.header).operation.rawValue)", "2", "44"], "\(line)")
            // tshark gives numbers, some in hexadecimal; the trace gives names for type and operation.
            let numbers = fields[5...].map { text in
                text.hasPrefix("0x") ? UInt64(text.dropFirst(2), radix: 16) : UInt64(text)
            }
            let values = numbers.map { $0 ?? .max }
            try #require(values.count == 10)
            let read = PacketHeader(
                sourceCID: values[0], destinationCID: values[2], sourcePort: UInt32(values[1]),
                destinationPort: UInt32(values[3]), payloadByteCount: UInt32(values[4]),
                type: SocketType(rawValue: UInt16(values[5])), operation: Operation(rawValue: UInt16(values[6])),
                flags: UInt32(values[7]), bufferAllocation: UInt32(values[8]), forwardedCount: UInt32(values[9]))
            #expect(read.traceLine() == packet.header.traceLine())
        }
    }

    @Test("packets are cut to the snap length, never shorter than their headers and a marker", arguments: [0, 84, 100])
    func snapLength(byteCount: Int) throws {
        let path = directory.file("c")
        let capture = try PacketCapture(path: path, snapLength: byteCount, log: log.logger)
        let limit = max(84, byteCount)
        send(capture, payload: pattern(8))
        send(capture, payload: pattern(5000))
        capture.finish()
        // What comes later is not captured, and harms nothing.
        send(capture, payload: [1])
        let packets = try readCapture(path)
        #expect(packets.map(\.bytes.count) == [84, limit])
        #expect(packets.map(\.byteCount) == [84, 5076])
        #expect(packets.last.map { Array($0.payload) } == Array(pattern(5000)[..<(limit - 76)]))
        #expect(try FileSystem.read(path)[16] == UInt8(limit))
    }

    @Test("a capture ends at its limit, with whole packets, says so once, and leaves the traffic alone")
    func byteLimit() throws {
        let path = directory.file("c")
        let capture = try PacketCapture(path: path, byteLimit: 24 + 2 * (16 + 76 + 100) + 50, log: log.logger)
        for _ in 0..<5 { send(capture, payload: pattern(100)) }
        #expect(try readCapture(path).count == 2)
        #expect(log.lines.filter { $0.contains("has ended at its limit") }.count == 1)
        capture.finish()
    }

    @Test("a capture that cannot be written any more ends, says so once, and leaves the traffic alone")
    func broken() throws {
        SignalReceiver.ignoreBrokenPipe()
        let pipe = try DescriptorIO.makePipe(nonBlocking: true)
        let reader = pipe.readEnd
        let capture = try PacketCapture(pipe.writeEnd, path: "the pipe", log: log.logger)
        _ = consume reader
        let recorder = TapRecorder()
        let device = try TestDevice { $0.tap = PacketTapGroup.joining([capture, recorder]) }
        let guest = try SocketDriver(path: device.socketPath, options: .pages)
        try eventually { try device.inspect { $0.isReady } }
        try exchange(guest, device, .stream)
        try exchange(guest, device, .seqpacket)
        guest.stop()
        device.stop()
        #expect(recorder.packets.count > 100)
        #expect(log.lines == ["error: the capture has ended; traffic goes on error=Broken pipe file=the pipe"])
    }

    @Test("a pipe whose reader is slow loses packets beyond a bounded buffer; those that arrive are whole")
    func slowReader() throws {
        let pipe = try DescriptorIO.makePipe(nonBlocking: true)
        let reader = pipe.readEnd
        let capture = try PacketCapture(pipe.writeEnd, path: "the pipe", log: log.logger)
        let count = 3 * PacketCapture.bufferByteCount / 65_536
        for index in 0..<count {
            send(capture, payload: pattern(65_536, seed: index))
            capture.batchEnded()
        }
        #expect(log.lines == ["warning: the capture loses packets: its reader is too slow file=the pipe"])
        var parser = CaptureReader()
        var packets: [CapturedPacket] = []
        func drain() throws {
            var chunk = [UInt8](repeating: 0, count: 1 << 16)
            while case .count(let count) = chunk.withUnsafeMutableBytes({ DescriptorIO.read(reader.rawValue, into: $0) }
            ),
                count > 0
            {
                chunk[..<count].withUnsafeBytes { parser.append($0) }
                while let packet = try parser.next() { packets.append(packet) }
                capture.batchEnded()
            }
        }
        try drain()
        let kept = packets.count
        #expect(kept < count)
        #expect(kept >= PacketCapture.bufferByteCount / 65_536 - 1)
        // It has caught up: nothing is lost from now on.
        send(capture, payload: [7])
        capture.finish()
        try drain()
        try parser.finish()
        #expect(packets.count == kept + 1)
        for (index, packet) in packets.dropLast().enumerated() {
            #expect(Array(packet.payload) == pattern(65_536, seed: index))
        }
        #expect(log.contains("the capture has not all packets", "lost=\(count - kept)"))
        #expect(log.lines.count == 2)
    }

    @Test("several VMs in one file: every packet is in it, and the time does not go back", arguments: [1, 2])
    func sharedFile(workerLimit: Int) throws {
        let path = directory.file("c")
        let vms = (3...4).map { cid in
            var vm = VsockDeviceConfiguration(
                guestCID: UInt32(cid), socketPath: directory.file("\(cid).s"), hybridPath: directory.file("\(cid).v"))
            vm.capturePath = path
            return vm
        }
        let daemon = try DeviceDaemon(vms, workerLimit: workerLimit, log: log.logger)
        let guests = try vms.map { try SocketDriver(path: $0.socketPath) }
        for _ in 0..<50 {
            for guest in guests {
                let socket = guest.makeSocket(.stream)
                #expect(throws: SocketError.connectionReset) {
                    try socket.connect(to: VsockAddress(cid: .host, port: 9))
                }
            }
        }
        daemon.stop()
        let packets = try readCapture(path)
        for cid in [3, 4] as [UInt64] {
            let operations = packets.compactMap(\.header)
                .filter { $0.sourceCID == cid || $0.destinationCID == cid }.map(\.operation)
            #expect(operations == (0..<50).flatMap { _ in [Operation.request, .reset] })
        }
        #expect(zip(packets, packets.dropFirst()).allSatisfy { $0.time <= $1.time })
    }

    @Test("a file that cannot be written is one clear error, and nothing is left behind")
    func unwritable() throws {
        func failure(_ path: String) -> String {
            var vm = VsockDeviceConfiguration(
                guestCID: 3, socketPath: directory.file("s"), hybridPath: directory.file("v"))
            vm.capturePath = path
            do {
                try DeviceDaemon([vm], workerLimit: 1, log: log.logger).stop()
                return "it started"
            } catch {
                return "\(error)"
            }
        }
        let missing = directory.file("missing/c")
        #expect(failure(missing) == "open \(missing): No such file or directory")
        #expect(failure(directory.path) == "open \(directory.path): Is a directory")
        #expect(failure("/dev/full") == "write /dev/full: No space left on device")
        #expect(log.lines == [])
        let path = directory.file("c")
        let other = try PacketCapture(path: path, log: log.logger)
        send(other, payload: [1, 2])
        other.batchEnded()
        #expect(failure(path).hasSuffix("(it is being written already)"))
        other.finish()
        // Nor has it been emptied.
        #expect(try readCapture(path).count == 1)
        #expect(directory.names == ["c"])
    }

    @Test("the host of a program shows the packets of its queues, to the tap that is set")
    func socketDevice() throws {
        let path = directory.file("d")
        let first = TapRecorder()
        let second = TapRecorder()
        var configuration = VsockDeviceConfiguration(guestCID: 3, socketPath: path, hybridPath: "")
        configuration.tap = first
        let device = try SocketDevice(configuration, log: log.logger)
        let listener = device.makeSocket(.seqpacket)
        try listener.bind(to: VsockAddress(cid: .any, port: 7))
        try listener.listen(backlog: 1)
        let guest = try SocketDriver(path: path)
        let client = guest.makeSocket(.seqpacket)
        try client.connect(to: VsockAddress(cid: .host, port: 7))
        let server = try listener.accept()
        #expect(first.packets.map(\.header.operation) == [.request, .response])
        #expect(first.packets.map(\.isOutgoing) == [false, true])
        device.setTap(second)
        try pattern(10_000).withUnsafeBytes { _ = try server.send($0) }
        var buffer = [UInt8](repeating: 0, count: 16384)
        _ = try buffer.withUnsafeMutableBytes { try client.receive(into: $0) }
        #expect(first.packets.count == 2)
        let data = second.packets.filter { $0.header.operation == .readWrite }
        #expect(flat(data.map(\.payload)) == pattern(10_000))
        #expect(data.map(\.payload.count) == data.map { Int($0.header.payloadByteCount) })
        guest.stop()
        device.stop()
    }

    @Test("packets are logged by the names of Linux's trace events, and only at level trace")
    func traceLog() throws {
        #expect(PacketTraceLog(log.logger) == nil)
        var logger = log.logger
        logger.logLevel = .trace
        let trace = try #require(PacketTraceLog(logger))
        var header = Self.header
        header.operation = .sequenceBegin
        header.payloadByteCount = 8
        // A marker in two pieces.
        var marker: [UInt8] = [1, 0, 0, 0, 5, 0, 0, 0]
        try marker.withUnsafeMutableBytes { bytes in
            let base = try #require(bytes.baseAddress)
            [MemorySegment(base: base, count: 3), MemorySegment(base: base + 3, count: 5)]
                .withUnsafeBufferPointer { trace.packet(header, $0, isOutgoing: false) }
        }
        send(trace, payload: [1])
        let received =
            "trace: virtio_transport_recv_pkt: 3:65536 -> 2:1234 len=8 type=SEQPACKET op=SEQ_BEGIN flags=0x0"
            + " buf_alloc=262144 fwd_cnt=0 msg_len=5 msg_cnt=1 "
        let sent =
            "trace: virtio_transport_alloc_pkt: 3:65536 -> 2:1234 len=1 type=SEQPACKET op=RW flags=0x1"
            + " buf_alloc=262144 fwd_cnt=0 msg_len=0 msg_cnt=0 (RW_EOR) "
        // The recorder puts metadata, of which there is none, behind a space.
        #expect(log.lines == [received, sent])
    }

    // MARK: Packets without a device

    private static let header = PacketHeader(
        sourceCID: 3, destinationCID: 2, sourcePort: 0x10000, destinationPort: 1234, type: .seqpacket,
        operation: .readWrite, bufferAllocation: 262_144)

    /// Shows a tap one RW packet.
    private func send(_ tap: any PacketTap, payload: [UInt8]) {
        var header = Self.header
        header.flags = 1
        header.payloadByteCount = UInt32(payload.count)
        var payload = payload
        payload.withUnsafeMutableBytes { bytes in
            guard let base = bytes.baseAddress else { return }
            [MemorySegment(base: base, count: bytes.count)].withUnsafeBufferPointer {
                tap.packet(header, $0, isOutgoing: true)
            }
        }
    }
}
