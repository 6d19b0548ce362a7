// SPDX-License-Identifier: Apache-2.0
//
// Scripts on the sockets of this package, over a loopback of their own.

import VsockCore
import VsockTransport
import VsockWire

/// A socket of the package.
final class PackageScriptedSocket: ScriptedSocket {
    let socket: any ConnectibleSocket

    init(_ socket: any ConnectibleSocket) { self.socket = socket }

    func bind(to address: VsockAddress) throws(SocketError) { try socket.bind(to: address) }

    func listen(backlog: Int) throws(SocketError) { try socket.listen(backlog: backlog) }

    func connect(to address: VsockAddress, noWait: Bool) throws(SocketError) {
        try socket.connect(to: address, doesNotWait: noWait)
    }

    func accept(noWait: Bool) throws(SocketError) -> any ScriptedSocket {
        PackageScriptedSocket(try socket.accept(doesNotWait: noWait))
    }

    func send(_ bytes: [UInt8], noWait: Bool, endOfRecord: Bool) throws(SocketError) -> Int {
        try bytes.span.bytes.withUnsafeBytes { (bytes) throws(SocketError) in
            try socket.send(bytes, SendOptions(endOfRecord: endOfRecord, doesNotWait: noWait))
        }
    }

    func receive(_ count: Int, _ flags: SocketCall.ReceiveFlags) throws(SocketError) -> ReceivedMessage {
        var buffer = [UInt8](repeating: 0, count: count)
        var span = buffer.mutableSpan
        let result = try span.withUnsafeMutableBytes { (bytes) throws(SocketError) in
            try socket.receive(
                into: bytes,
                ReceiveOptions(
                    peeks: flags.contains(.peek), doesNotWait: flags.contains(.noWait),
                    waitsForAll: flags.contains(.waitAll)))
        }
        return ReceivedMessage(
            result: flags.contains(.truncate) ? result.fullLength : result.count,
            bytes: Array(buffer[..<result.count]), endOfRecord: result.endOfRecord, truncated: result.truncated)
    }

    func shutdown(_ direction: SocketCall.Direction) throws(SocketError) {
        switch direction {
        case .rd: try socket.shutdown(.receive)
        case .wr: try socket.shutdown(.send)
        case .rdwr: try socket.shutdown(.both)
        }
    }

    func set(_ option: SocketCall.Option, _ value: Int) throws(SocketError) {
        let time = Duration.milliseconds(value)
        switch option {
        case .size: try socket.set(.bufferSize(UInt64(value)))
        case .min: try socket.set(.bufferMinimumSize(UInt64(value)))
        case .max: try socket.set(.bufferMaximumSize(UInt64(value)))
        case .lowat: try socket.set(.receiveLowWaterMark(value))
        case .rcvtimeo: try socket.set(.receiveTimeout(time))
        case .sndtimeo: try socket.set(.sendTimeout(time))
        case .conntimeo: try socket.set(.connectTimeout(time))
        }
    }

    func get(_ option: SocketCall.Option) throws(SocketError) -> Int {
        let settings = socket.settings
        return switch option {
        case .size: Int(clamping: settings.bufferSize)
        case .min: Int(clamping: settings.bufferMinimumSize)
        case .max: Int(clamping: settings.bufferMaximumSize)
        case .lowat: settings.receiveLowWaterMark
        case .rcvtimeo: Int(clamping: settings.receiveTimeoutNanoseconds / 1_000_000)
        case .sndtimeo: Int(clamping: settings.sendTimeoutNanoseconds / 1_000_000)
        case .conntimeo: Int(clamping: settings.connectTimeoutNanoseconds / 1_000_000)
        }
    }

    func poll() throws(SocketError) -> SocketReadiness { socket.readiness }

    func takeError() throws(SocketError) -> SocketError? { socket.takeError() }

    func localAddress() throws(SocketError) -> VsockAddress { socket.localAddress }

    func peerAddress() throws(SocketError) -> VsockAddress {
        guard let address = socket.peerAddress else { throw .notConnected }
        return address
    }

    func unsentByteCount() throws(SocketError) -> Int { socket.unsentByteCount }

    func close() { socket.close() }
}

/// Sockets of a loopback of its own, where a packet arrives in the call that sends it.
final class LoopbackScriptedSockets: ScriptedSockets {
    private let loopback = Loopback()

    func makeSocket(_ type: SocketType) throws(SocketError) -> any ScriptedSocket {
        PackageScriptedSocket(loopback.makeSocket(type))
    }

    func settle() {}
}
