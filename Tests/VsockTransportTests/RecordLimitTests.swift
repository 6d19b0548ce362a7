// SPDX-License-Identifier: Apache-2.0
//
// Records that cannot be carried: the connection is reset with a reason in the log, and nothing is ever cut short.
// And empty ones, which AF_UNIX shows like an end of file.

import Testing
import VsockCore
import VsockSystem
import VsockWire

@testable import VsockTransport

@Suite("Limits of records")
struct RecordLimitTests {
    @Test("a host's record larger than the guest's buffer resets the connection, and only that")
    func hostRecordTooLarge() throws {
        let device = try TestDevice()
        let guest = try device.guest()
        let other = try ConnectedPair(device, guest, .seqpacket, from: .guest, port: 1)
        let pair = try ConnectedPair(device, guest, .seqpacket, from: .guest, port: 2)
        try pair.host.send(pattern(262_145))
        #expect(try pair.receive() == nil)
        #expect(pair.socket.peerShutdown == .both)
        #expect(try pair.host.isClosedWithoutText())
        #expect(device.log.contains("warning", "larger than the guest's buffer of 262144 bytes"))
        #expect(try device.counters().aborted == 1)
        try other.host.send([2])
        #expect(try other.receive() == [2])
    }

    @Test("a guest's record larger than the device's buffer is refused on the guest's own side")
    func guestRecordTooLarge() throws {
        let device = try TestDevice()
        let pair = try ConnectedPair(device, try device.guest(), .seqpacket, from: .guest)
        #expect(throws: SocketError.messageTooLong) { try pair.send(pattern(262_145)) }
        try pair.send(pattern(262_144))
        #expect(try pair.host.receive() == pattern(262_144))
    }

    @Test("the device's buffer can be configured, and bounds the guest's records", arguments: [65_536, 1 << 20])
    func configuredBuffer(byteCount: Int) throws {
        let device = try TestDevice { $0.bufferByteCount = UInt32(byteCount) }
        let pair = try ConnectedPair(device, try device.guest(), .seqpacket, from: .guest)
        #expect(throws: SocketError.messageTooLong) { try pair.send(pattern(byteCount + 1)) }
        try pair.send(pattern(byteCount))
        #expect(try pair.host.receive(upTo: 2 << 20) == pattern(byteCount))
    }

    @Test("a guest's record that the host socket cannot carry resets the connection")
    func hostSocketTooSmall() throws {
        // Only the framing of RFC v5 has records that are larger than the buffer.
        let device = try TestDevice { $0.seqpacket = .rfcV5 }
        let guest = try device.guest()
        let pair = try ConnectedPair(device, guest, .seqpacket, from: .guest)
        // The kernel doubles what it grants of this, and a record takes more than its bytes.
        let byteCount = 2 * Int(HybridHost.recordBufferByteCount) + 1
        // The whole record may have been sent before the reset comes.
        try? pair.send([UInt8](repeating: 1, count: byteCount))
        try pair.waitForShutdown(.both)
        #expect(throws: SocketError.brokenPipe) { try pair.send([1]) }
        #expect(try pair.host.isClosedWithoutText())
        #expect(device.log.contains("warning", "larger than the host socket can carry"))
    }

    @Test("a record that goes on and on is cut off before its end, and before it takes all memory")
    func endlessRecord() throws {
        let device = try TestDevice { $0.seqpacket = .rfcV5 }
        let guest = try device.guest()
        let pair = try ConnectedPair(device, guest, .seqpacket, from: .guest)
        let byteCount = HybridHost.maximumRecordByteCount
        #expect(throws: SocketError.brokenPipe) { try pair.send([UInt8](repeating: 1, count: byteCount)) }
        #expect(try device.inspect { $0.host.endpoint.counters.receivedBytes } < byteCount)
        #expect(device.log.contains("warning", "larger than the host socket can carry"))
    }

    @Test("empty records of the host are not sent in the standard framing, and do not end the connection")
    func emptyRecords() throws {
        let device = try TestDevice()
        let pair = try ConnectedPair(device, try device.guest(), .seqpacket, from: .guest)
        try pair.host.send([])
        try pair.host.send([1])
        try pair.host.send([])
        try pair.host.send([])
        try pair.host.send([2, 3])
        #expect(try pair.receive() == [1])
        #expect(try pair.receive() == [2, 3])
        #expect(try device.counters().emptyRecords == 3)
        try pair.host.send([])
        try eventually { try device.counters().emptyRecords == 4 }
        #expect(pair.socket.peerShutdown == [])
        try pair.host.shutdown(.send)
        #expect(try pair.receive() == nil)
        #expect(pair.socket.peerShutdown == .send)
    }

    @Test("empty records cross in the framing of RFC v5, where they can be told from the end")
    func emptyRFCRecords() throws {
        let device = try TestDevice { $0.seqpacket = .rfcV5 }
        let pair = try ConnectedPair(device, try device.guest(), .seqpacket, from: .guest)
        try pair.host.send([])
        try pair.host.send([1])
        try pair.host.send([])
        try pair.host.send([2])
        for expected in [[], [1], [], [2]] as [[UInt8]] { #expect(try pair.receive() == expected) }
        try pair.host.shutdown(.send)
        #expect(try pair.receive() == nil)
    }

    @Test("an empty record of the guest reaches the host in the framing of RFC v5, and is no end of file")
    func emptyGuestRecord() throws {
        let device = try TestDevice { $0.seqpacket = .rfcV5 }
        let pair = try ConnectedPair(device, try device.guest(), .seqpacket, from: .guest)
        try pair.send([])
        try pair.send([1])
        #expect(try pair.host.receive() == nil)
        #expect(try !pair.host.ready([.readable, .readHangUp]).contains(.readHangUp))
        #expect(try pair.host.receive() == [1])
    }

    @Test("records that wait when the host ends its side arrive before the end")
    func recordsBeforeEnd() throws {
        let device = try TestDevice()
        let pair = try ConnectedPair(device, try device.guest(), .seqpacket, from: .host)
        for index in 0..<20 { try pair.host.send(pattern(index + 1, seed: index)) }
        pair.host.close()
        for index in 0..<20 { #expect(try pair.receive() == pattern(index + 1, seed: index)) }
        #expect(try pair.receive() == nil)
    }

    @Test("seqpacket=off: clients of PATH_seqpacket are closed at once")
    func off() throws {
        let device = try TestDevice { $0.seqpacket = .off }
        let guest = try device.guest()
        let client = try device.client(.seqpacket)
        try client.send("CONNECT 52\n")
        #expect(try client.isClosedWithoutText())
        _ = try ConnectedPair(device, guest, .stream, from: .host)
    }
}
