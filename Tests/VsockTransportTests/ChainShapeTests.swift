// SPDX-License-Identifier: Apache-2.0
//
// A packet is a run of bytes over a chain of any shape: virtio 1.3 "Message Framing". The drivers of Linux, of its
// releases old and new, and of other systems each have their own.

import Testing
import VirtioQueue
import VsockSystem
import VsockWire

@testable import VsockTransport

@Suite("Chains of any shape")
struct ChainShapeTests {
    /// How a packet with 1000 bytes of payload is cut into descriptors.
    static let cuts: [[Int]] = [
        [], [44], [1], [43], [45], [20, 24], [10, 10, 24], [44, 1, 1, 998], [20, 500], [44, 500, 500],
        [44] + Array(repeating: 58, count: 17), Array(repeating: 4, count: 11) + [1000], [0, 44, 0, 1000, 0],
        Array(repeating: 20, count: 52),
    ]

    @Test("packets of the guest arrive whole, however header and payload are cut", arguments: cuts, [false, true])
    func transmit(cuts: [Int], isIndirect: Bool) throws {
        let device = try TestDevice()
        let guest = try RingGuest(device, indirect: isIndirect)
        let listener = try device.listen(.seqpacket, port: 5000)
        for _ in 0..<8 { try guest.post([4096]) }
        try guest.send(
            guest.packet(.request, type: .seqpacket), cuts: cuts.first.map { [min($0, 43)] } ?? [],
            isIndirect: isIndirect)
        #expect(try guest.next()?.header.operation == .response)
        let host = try listener.take()
        for round in 0..<3 {
            let payload = pattern(1000, seed: round)
            let header = guest.packet(
                .readWrite, type: .seqpacket, flags: SequenceFlags.endOfMessage.rawValue, payloadByteCount: 1000)
            let head = try guest.send(header, payload: payload, cuts: cuts, isIndirect: isIndirect)
            #expect(try host.receive() == payload)
            while true {
                let used = try guest.used(VsockDevice.QueueIndex.transmit)
                #expect(used.byteCount == 0)
                if used.head == UInt32(head) { break }
            }
        }
        #expect(try device.inspect { $0.counters.malformedChains } == 0)
    }

    @Test("consecutive packets with more segments than one system call takes arrive whole", arguments: [1, 2])
    func manySegments(packetCount: Int) throws {
        for (type, unixType) in [(SocketType.stream, UnixSocketType.stream), (.seqpacket, .seqpacket)] {
            let device = try TestDevice()
            let guest = try RingGuest(device, indirect: true)
            let listener = try device.listen(unixType, port: 5000)
            for _ in 0..<8 { try guest.post([4096]) }
            try guest.send(guest.packet(.request, type: type))
            #expect(try guest.next()?.header.operation == .response)
            let host = try listener.take()
            // 1,000 descriptors of one byte each; two packets of a record, or of a stream, are gathered together.
            for index in 1...packetCount {
                let flags = type == .seqpacket && index == packetCount ? SequenceFlags.endOfMessage.rawValue : 0
                let header = guest.packet(.readWrite, type: type, flags: flags, payloadByteCount: 1000)
                try guest.send(
                    header, payload: pattern(1000, seed: index), cuts: [44] + Array(repeating: 1, count: 999),
                    isIndirect: true, isKicked: index == packetCount)
            }
            let expected = flat((1...packetCount).map { pattern(1000, seed: $0) })
            #expect(try host.receive(exactly: expected.count) == expected)
            #expect(try device.inspect { $0.counters.malformedChains } == 0)
        }
    }

    @Test("bytes of a chain behind the packet's length are ignored, and so are writable ones")
    func longChain() throws {
        let device = try TestDevice()
        let guest = try RingGuest(device)
        let listener = try device.listen(.stream, port: 5000)
        try guest.post([4096])
        try guest.send(guest.packet(.request), payload: pattern(500))
        #expect(try guest.next()?.header.operation == .response)
        let host = try listener.take()
        try guest.send(guest.packet(.readWrite, payloadByteCount: 10), payload: pattern(500))
        let header = guest.place(guest.packet(.readWrite, payloadByteCount: 3).encoded + [1, 2, 3])
        guest.rings[VsockDevice.QueueIndex.transmit].submit([header, guest.room(100)])
        guest.kick(VsockDevice.QueueIndex.transmit)
        #expect(try host.receive(exactly: 13) == Array(pattern(500)[..<10]) + [1, 2, 3])
        #expect(try device.inspect { $0.counters.malformedChains } == 0)
    }

    /// Receive buffers as drivers post them.
    static let buffers: [[Int]] = [
        [4096], [3776 - 320], [44, 4096], [44 + 8], [1, 43, 100], [44, 8], [20, 24, 8], [22, 22 + 10],
        Array(repeating: 4, count: 15), [43, 1, 1, 1000], [0, 44, 0, 100],
    ]

    @Test("packets of the host fit into receive buffers of any shape", arguments: buffers, [false, true])
    func receive(buffer: [Int], isIndirect: Bool) throws {
        for type in [UnixSocketType.stream, .seqpacket] {
            let device = try TestDevice()
            let guest = try RingGuest(device, indirect: isIndirect)
            let socketType: SocketType = type == .stream ? .stream : .seqpacket
            let listener = try device.listen(type, port: 5000)
            for _ in 0..<4 { try guest.post(buffer, isIndirect: isIndirect) }
            try guest.send(guest.packet(.request, type: socketType))
            #expect(try guest.next()?.header.operation == .response)
            try guest.post(buffer, isIndirect: isIndirect)
            let host = try listener.take()
            let payload = pattern(500)
            try host.send(payload)
            var received: [UInt8] = []
            while received.count < payload.count {
                let packet = try #require(try guest.next())
                #expect(packet.payload.count <= buffer.reduce(0, +) - 44)
                received += packet.payload
                let isLast = received.count == payload.count
                #expect(packet.header.flags == (type == .seqpacket && isLast ? 1 : 0))
                try guest.post(buffer, isIndirect: isIndirect)
            }
            #expect(received == payload)
        }
    }

    @Test("markers of RFC v5 fit into the smallest buffers that can hold one")
    func tinyMarkers() throws {
        let device = try TestDevice { $0.seqpacket = .rfcV5 }
        let guest = try RingGuest(device, seqpacket: false)
        let listener = try device.listen(.seqpacket, port: 5000)
        for _ in 0..<8 { try guest.post([44 + 8]) }
        try guest.send(guest.packet(.request, type: .seqpacket))
        #expect(try guest.next()?.header.operation == .response)
        try listener.take().send(pattern(20))
        var operations: [Operation] = []
        var payload: [UInt8] = []
        while operations.last != .sequenceEnd {
            let packet = try #require(try guest.next())
            guard packet.header.operation != .shutdown else { continue }
            operations.append(packet.header.operation)
            if packet.header.operation == .readWrite { payload += packet.payload }
        }
        #expect(operations == [.sequenceBegin, .readWrite, .readWrite, .readWrite, .sequenceEnd])
        #expect(payload == pattern(20))
    }

    @Test("buffers of exactly a header carry packets without payload; for data they come back empty")
    func headerOnlyBuffers() throws {
        let device = try TestDevice()
        let guest = try RingGuest(device)
        let listener = try device.listen(.stream, port: 5000)
        for _ in 0..<4 { try guest.post([44]) }
        try guest.send(guest.packet(.request))
        #expect(try guest.next()?.header.operation == .response)
        let host = try listener.take()
        try host.send([1, 2, 3])
        for _ in 0..<3 { #expect(try guest.next() == nil) }
        try guest.post([44 + 100])
        #expect(try guest.next()?.payload == [1, 2, 3])
    }

    @Test("buffers too small for a header, or not writable, come back empty and keep nothing behind them waiting")
    func uselessBuffers() throws {
        let device = try TestDevice()
        let guest = try RingGuest(device)
        try guest.post([43])
        try guest.post([10, 10, 10])
        let readable = guest.place([UInt8](repeating: 0xee, count: 100))
        guest.rings[VsockDevice.QueueIndex.receive].submit([readable])
        try guest.post([100])
        try guest.send(guest.packet(.request, to: 1))
        #expect(try guest.next() == nil)
        #expect(try guest.next() == nil)
        #expect(try guest.used(VsockDevice.QueueIndex.receive).byteCount == 0)
        #expect(try guest.next()?.header.operation == .reset)
        #expect(guest.bytes(readable).allSatisfy { $0 == 0xee })
    }
}
