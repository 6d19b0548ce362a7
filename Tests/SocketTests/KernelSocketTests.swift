// SPDX-License-Identifier: Apache-2.0
//
// What can be seen of the transport `kernel` without a peer; it carries data in GuestTests.

import Testing
import Vsock

private var hasKernelVsock: Bool { (try? VsockTransport.kernel.localCID()) != nil }

@Suite(
    "Sockets of the running kernel", .timeLimit(.minutes(10)),
    .enabled(if: hasKernelVsock, "this kernel has no AF_VSOCK"))
struct KernelSocketTests {
    @Test(
        "a listener has a port, and closing it makes the port free at once",
        arguments: [SocketType.stream, .seqpacket])
    func rebind(type: SocketType) async throws {
        let port = try await VsockListener.bind(type, port: .any, on: .kernel).address.port
        #expect(port != .any)
        for _ in 0..<50 {
            let listener = try await VsockListener.bind(type, port: port, on: .kernel)
            await #expect(throws: SocketError.addressInUse) {
                _ = try await VsockListener.bind(type, port: port, on: .kernel)
            }
            #expect(try listener.acceptWithoutWaiting() == nil)
            listener.close()
        }
    }

    @Test("sizes are what the kernel makes of them")
    func buffers() async throws {
        let listener = try await VsockListener.bind(.stream, port: .any, on: .kernel)
        #expect(listener.settings.bufferSize == 262_144)
        try listener.set(.bufferSize(1 << 40))
        #expect(listener.settings.bufferSize == listener.settings.bufferMaximumSize)
        try listener.set(.bufferMinimumSize(1))
        try listener.set(.bufferSize(1))
        #expect(listener.settings.bufferSize == listener.settings.bufferMinimumSize)
    }

    @Test("an accept ends with a cancellation, with a time limit and with a close")
    func accept() async throws {
        let listener = try await VsockListener.bind(.stream, port: .any, on: .kernel)
        let task = Task { try await listener.accept() }
        task.cancel()
        await #expect(throws: SocketError.cancelled) { _ = try await task.value }
        try listener.set(.receiveTimeout(.milliseconds(1)))
        await #expect(throws: SocketError.wouldBlock) { _ = try await listener.accept() }
        try listener.set(.receiveTimeout(.zero))
        let closing = Task { try await listener.accept() }
        listener.close()
        await #expect(throws: SocketError.badDescriptor) { _ = try await closing.value }
    }
}
