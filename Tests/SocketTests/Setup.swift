// SPDX-License-Identifier: Apache-2.0
//
// The transports that the same tests run over: both framings in this process, and a driver against a device.

import Synchronization
import Testing
import VsockSystem
import VsockTestSupport
import VsockTransport
import VsockWire

import Vsock

/// How two sockets are joined.
enum Setup: String, CaseIterable, Sendable, CustomTestStringConvertible {
    case loopback, loopbackPackets, loopbackRFC, deviceToDriver, deviceToDriverRFC, driverToDevice, driverToDeviceRFC

    var testDescription: String { rawValue }

    var isRFC: Bool { rawValue.hasSuffix("RFC") }

    var isLoopback: Bool { rawValue.hasPrefix("loopback") }

    private static let lastNumber = Atomic<Int>(0)

    /// The transports of a listener and of who connects to it; `tap` sees what the latter sees.
    func make(tap: (any PacketTap)? = nil) throws -> Ends {
        let mode: SeqpacketMode = isRFC ? .rfcV5 : .standard
        if isLoopback {
            let transport = VsockTransport.isolatedLoopback(seqpacket: mode)
            try transport.setTap(tap ?? (self == .loopbackPackets ? SilentTap() : nil))
            return Ends(listening: transport, connecting: transport, cid: .local)
        }
        let number = Self.lastNumber.add(1, ordering: .relaxed).newValue
        let path = "/tmp/vsock-sockets-\(CurrentProcess.identifier)-\(number).sock"
        let isDriverConnecting = self == .driverToDevice || self == .driverToDeviceRFC
        let device = VsockTransport.device(path, guestCID: 42, seqpacket: mode)
        let driver = VsockTransport.driver(path)
        try (isDriverConnecting ? driver : device).setTap(tap)
        try device.open()
        try driver.open()
        return isDriverConnecting
            ? Ends(listening: device, connecting: driver, cid: .host)
            : Ends(listening: driver, connecting: device, cid: 42)
    }
}

/// A loopback whose packets someone sees makes packets of everything.
final class SilentTap: PacketTap {
    func packet(_ header: PacketHeader, _ payload: PacketPayload, isOutgoing: Bool) {}
}

/// The transports of one test, and where the listener is.
struct Ends: Sendable {
    let listening: VsockTransport
    let connecting: VsockTransport
    let cid: VsockAddress.ContextID

    /// Two sockets that are connected: who connected, and who was connected to.
    func pair(
        _ type: SocketType, port: VsockAddress.Port = 1234, options: [SocketOption] = []
    ) async throws -> (client: VsockSocket, server: VsockSocket) {
        let listener = try await VsockListener.bind(type, port: port, on: listening, options: options)
        let client = try await VsockSocket.connect(
            type, to: VsockAddress(cid: cid, port: port), over: connecting, options: options)
        return (client, try await listener.accept())
    }
}

/// Bytes that tell where they belong.
func pattern(_ count: Int, seed: Int = 1) -> [UInt8] {
    var state = UInt64(truncatingIfNeeded: seed) &* 0x9e37_79b9_7f4a_7c15 | 1
    return [UInt8](unsafeUninitializedCapacity: count) { bytes, initialized in
        for index in 0..<count {
            state = state &* 6_364_136_223_846_793_005 &+ 1
            bytes[index] = UInt8(truncatingIfNeeded: state >> 56)
        }
        initialized = count
    }
}

extension VsockSocket {
    /// The next record, or what a stream has.
    func next(_ capacity: Int = 65536, _ options: ReceiveOptions = ReceiveOptions()) async throws -> [UInt8] {
        var buffer = [UInt8](repeating: 0, count: capacity)
        let result = try await receive(into: &buffer, options: options)
        return Array(buffer[..<result.count])
    }

    /// Waits, with a deadline, until the peer's end has come.
    func waitForEnd() async throws -> Bool {
        var buffer = [UInt8](repeating: 0, count: 16)
        return try await receive(into: &buffer, options: ReceiveOptions(timeoutNanoseconds: testDeadline)).isEnd
    }
}
