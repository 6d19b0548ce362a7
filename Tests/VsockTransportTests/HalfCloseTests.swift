// SPDX-License-Identifier: Apache-2.0
//
// Shutdowns of one direction cross in both directions; the table is at the top of HostSocket.swift.

import Testing
import VsockCore
import VsockSystem
import VsockTransport
import VsockWire

@Suite("Half-close")
struct HalfCloseTests {
    static let types = [UnixSocketType.stream, .seqpacket]

    @Test(
        "the host ends its sending side: the guest sees the end and can still send",
        arguments: types, ConnectedPair.Initiator.allCases)
    func hostShutsSending(type: UnixSocketType, initiator: ConnectedPair.Initiator) throws {
        let device = try TestDevice()
        let pair = try ConnectedPair(device, try device.guest(), type, from: initiator)
        try pair.host.send([1, 2, 3])
        try pair.host.shutdown(.send)
        #expect(try pair.receive() == [1, 2, 3])
        #expect(try pair.receive() == nil)
        #expect(pair.socket.peerShutdown == .send)
        for index in 0..<20 {
            try pair.send(pattern(1000, seed: index))
            #expect(try pair.host.receive() == pattern(1000, seed: index))
        }
        pair.socket.close()
        #expect(try pair.host.receive() == nil)
        try pair.host.waitForHangUp()
        try eventually { pair.guest.connectionCount == 0 }
        try eventually { try device.connectionCount() == 0 }
    }

    @Test(
        "the guest ends its sending side: the host program sees the end and can still send",
        arguments: types, ConnectedPair.Initiator.allCases)
    func guestShutsSending(type: UnixSocketType, initiator: ConnectedPair.Initiator) throws {
        let device = try TestDevice()
        let pair = try ConnectedPair(device, try device.guest(), type, from: initiator)
        try pair.send([1, 2, 3])
        try pair.socket.shutdown(.send)
        #expect(try pair.host.receive() == [1, 2, 3])
        #expect(try pair.host.receive() == nil)
        #expect(try !pair.host.ready([.readable]).contains(.hangUp))
        for index in 0..<20 {
            try pair.host.send(pattern(1000, seed: index))
            #expect(try pair.receive() == pattern(1000, seed: index))
        }
        pair.host.close()
        #expect(try pair.receive() == nil)
        try pair.waitForShutdown(.both)
        pair.socket.close()
        try eventually { pair.guest.connectionCount == 0 }
    }

    @Test(
        "the host program gives up reading: the guest's next send tells it, and the other way goes on", arguments: types
    )
    func hostShutsReceiving(type: UnixSocketType) throws {
        let device = try TestDevice()
        let pair = try ConnectedPair(device, try device.guest(), type, from: .guest)
        try pair.host.shutdown(.receive)
        try pair.send([1])
        try pair.waitForShutdown(.receive)
        #expect(pair.socket.peerShutdown == .receive)
        #expect(throws: SocketError.brokenPipe) { try pair.send([2]) }
        try pair.host.send([3])
        #expect(try pair.receive() == [3])
    }

    @Test("the guest gives up reading: the host program gets EPIPE, and the other way goes on", arguments: types)
    func guestShutsReceiving(type: UnixSocketType) throws {
        let device = try TestDevice()
        let pair = try ConnectedPair(device, try device.guest(), type, from: .guest)
        try pair.socket.shutdown(.receive)
        try eventually { pair.host.send([1][...]) == .failed(.brokenPipe) }
        try pair.send([2])
        #expect(try pair.host.receive() == [2])
        try pair.socket.shutdown(.send)
        #expect(try pair.host.receive() == nil)
        // Both directions are over: the device ends the connection.
        try eventually { pair.guest.connectionCount == 0 }
        try pair.host.waitForHangUp()
    }

    @Test("both ends shut their sending sides: the connection ends", arguments: types)
    func bothShutSending(type: UnixSocketType) throws {
        let device = try TestDevice()
        let pair = try ConnectedPair(device, try device.guest(), type, from: .host)
        try pair.host.send([1])
        try pair.send([2])
        try pair.host.shutdown(.send)
        try pair.socket.shutdown(.send)
        #expect(try pair.receive() == [1])
        #expect(try pair.receive() == nil)
        #expect(try pair.host.receive() == [2])
        #expect(try pair.host.receive() == nil)
        pair.host.close()
        pair.socket.close()
        try eventually { pair.guest.connectionCount == 0 }
        try eventually { try device.connectionCount() == 0 }
    }

    @Test("a host program that has half-closed and then closes is seen to have left", arguments: types)
    func halfCloseThenClose(type: UnixSocketType) throws {
        let device = try TestDevice()
        let pair = try ConnectedPair(device, try device.guest(), type, from: .guest)
        try pair.host.shutdown(.send)
        #expect(try pair.receive() == nil)
        #expect(pair.socket.peerShutdown == .send)
        pair.host.close()
        try pair.waitForShutdown(.both)
    }

    @Test("the end comes after all data that was sent before it", arguments: [1, 100_000, 300_000])
    func dataBeforeEnd(byteCount: Int) throws {
        let device = try TestDevice()
        let guest = try device.guest()
        let pair = try ConnectedPair(device, guest, .stream, from: .guest)
        let data = pattern(byteCount)
        let host = pair.host
        let exchange = try Background {
            try host.send(data)
            try host.shutdown(.send)
            return try host.receiveToEnd()
        }
        #expect(try pair.receiveToEnd() == data)
        try pair.send(data)
        try pair.socket.shutdown(.send)
        #expect(try exchange.value() == data)
    }
}
