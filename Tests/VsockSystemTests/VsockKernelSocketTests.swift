// SPDX-License-Identifier: Apache-2.0
//
// What can be seen of AF_VSOCK without a peer. A kernel without vsock has nothing to test here, and these tests say so
// as skipped; carrying data needs a loopback transport or a guest and is tested with guests.

import Glibc
import Testing
import VsockSystem
import VsockTestSupport

private var hasKernelVsock: Bool {
    failure { () throws(SystemCallError) in
        _ = try VsockKernelSocket.make(type: Int32(SOCK_STREAM.rawValue), nonBlocking: true)
    } == nil
}

@Suite(.enabled(if: hasKernelVsock, "this kernel has no AF_VSOCK"))
struct VsockKernelSocketTests {
    private let stream = Int32(SOCK_STREAM.rawValue)

    @Test("a bound socket has its address, an unconnected one no peer")
    func addresses() throws {
        let socket = try VsockKernelSocket.make(type: stream, nonBlocking: true)
        try VsockKernelSocket.bind(socket.rawValue, to: VsockKernelAddress(cid: .max, port: .max))
        let local = try VsockKernelSocket.localAddress(socket.rawValue)
        #expect(local.cid == .max)
        #expect(local.port != .max)
        let error = failure { () throws(SystemCallError) in _ = try VsockKernelSocket.peerAddress(socket.rawValue) }
        #expect(error?.errno == .notConnected)
    }

    @Test("a port is bound once; a listener without clients has none to accept")
    func listens() throws {
        let socket = try VsockKernelSocket.make(type: stream, nonBlocking: true)
        try VsockKernelSocket.bind(socket.rawValue, to: VsockKernelAddress(cid: .max, port: .max))
        try VsockKernelSocket.listen(socket.rawValue, backlog: 8)
        let none = try VsockKernelSocket.accept(socket.rawValue) == nil
        #expect(none)
        let address = try VsockKernelSocket.localAddress(socket.rawValue)
        let other = try VsockKernelSocket.make(type: stream, nonBlocking: true)
        let error = failure { () throws(SystemCallError) in try VsockKernelSocket.bind(other.rawValue, to: address) }
        #expect(error?.description == "bind \(address): Address already in use")
    }

    @Test("buffer sizes are 64-bit numbers kept between minimum and maximum")
    func buffers() throws {
        let socket = try VsockKernelSocket.make(type: stream, nonBlocking: true)
        let raw = socket.rawValue
        try VsockKernelSocket.setBuffer(raw, .maximumSize, byteCount: 1 << 20)
        try VsockKernelSocket.setBuffer(raw, .minimumSize, byteCount: 4096)
        try VsockKernelSocket.setBuffer(raw, .size, byteCount: 1 << 33)
        #expect(try VsockKernelSocket.buffer(raw, .size) == 1 << 20)
        try VsockKernelSocket.setBuffer(raw, .size, byteCount: 1)
        #expect(try VsockKernelSocket.buffer(raw, .size) == 4096)
        #expect(try VsockKernelSocket.buffer(raw, .maximumSize) == 1 << 20)
        try VsockKernelSocket.setConnectTimeout(raw, nanoseconds: 1_500_000_000)
    }

    @Test("a connect to a CID that nothing reaches fails, at once or when it has ended")
    func unreachable() throws {
        let socket = try VsockKernelSocket.make(type: stream, nonBlocking: true)
        // CID 0 is reserved for the hypervisor and no transport of Linux routes to it.
        let address = VsockKernelAddress(cid: 0, port: 1)
        var outcome: Errno?
        do {
            if try !VsockKernelSocket.connect(socket.rawValue, to: address) {
                _ = try DescriptorIO.waitUntilReady(
                    socket.rawValue, for: .writable, timeoutNanoseconds: testDeadline)
                outcome = try SocketOptions.takeError(socket.rawValue)
            }
        } catch {
            outcome = error.errno
        }
        #expect(outcome != nil)
    }

    @Test("the local CID is read from the device", .enabled(if: access("/dev/vsock", R_OK) == 0))
    func localCID() throws {
        // Never a reserved one: 0 is the hypervisor's, and 1 is an alias for whatever this is.
        #expect(try VsockKernelSocket.localCID() >= 1)
    }
}
