// SPDX-License-Identifier: Apache-2.0
//
// The transport `uds` through a device daemon, with a driver as its guest.

import Logging
import Testing
import VsockSystem
import VsockTestSupport
import VsockTransport

import Vsock

@Suite("Hybrid sockets", .timeLimit(.minutes(10)))
struct HybridTests {
    @Test("connections both ways, of both types", arguments: [SocketType.stream, .seqpacket])
    func bothWays(type: SocketType) async throws {
        let name = "/tmp/vsock-hybrid-\(CurrentProcess.identifier)-\(type.rawValue)"
        var log = Logger(label: "test")
        log.logLevel = .warning
        let daemon = try DeviceDaemon(
            [VsockDeviceConfiguration(guestCID: 5, socketPath: name + ".sock", hybridPath: name)], workerLimit: 1,
            log: log)
        defer { daemon.stop() }
        let guest = VsockTransport.driver(name + ".sock")
        let host = VsockTransport.uds(name)

        let inGuest = try await VsockListener.bind(type, port: 80, on: guest)
        let fromHost = try await VsockSocket.connect(type, to: VsockAddress(cid: 5, port: 80), over: host)
        #expect(fromHost.peerAddress?.port == 80)
        try await exchange(fromHost, try await inGuest.accept())
        await #expect(throws: SocketError.connectionReset) {
            _ = try await VsockSocket.connect(type, to: VsockAddress(cid: 5, port: 81), over: host)
        }

        let onHost = try await VsockListener.bind(type, port: 90, on: host)
        let fromGuest = try await VsockSocket.connect(type, to: VsockAddress(cid: .host, port: 90), over: guest)
        try await exchange(fromGuest, try await onHost.accept())
        await #expect(throws: SocketError.addressInUse) {
            _ = try await VsockListener.bind(type, port: 90, on: host)
        }
        guest.close()
    }

    private func exchange(_ first: VsockSocket, _ second: VsockSocket) async throws {
        let data = pattern(100_000)
        let options = ReceiveOptions(waitsForAll: true, timeoutNanoseconds: testDeadline)
        async let sent = first.send(data)
        #expect(try await second.next(data.count, options) == data)
        #expect(try await sent == data.count)
        try await second.send([1, 2, 3])
        #expect(try await first.next(3, options) == [1, 2, 3])
        await #expect(throws: SocketError.wouldBlock) {
            _ = try await first.next(3, ReceiveOptions(doesNotWait: true))
        }
        second.close()
        #expect(try await first.waitForEnd())
    }
}
