// SPDX-License-Identifier: Apache-2.0
//
// The same socket for programs without tasks: calls block their thread. Not to be used in a task.

import VsockCore
import VsockTransport
import VsockWire

extension VsockSocket {
    /// Connects, and blocks until that has ended: see ``connect(_:to:from:over:options:)``.
    public static func connectBlocking(
        _ type: SocketType, to address: VsockAddress, from localPort: VsockAddress.Port? = nil,
        over transport: VsockTransport, options: [SocketOption] = []
    ) throws -> VsockSocket {
        let socket = try make(type, localPort, transport, options)
        try socket.socket.connect(to: address)
        return socket
    }

    /// The socket's blocking calls.
    public var blocking: Blocking { Blocking(socket: self) }

    /// Calls that block their thread.
    public struct Blocking: Sendable {
        let socket: VsockSocket

        /// Sends all bytes, as one record on a seqpacket socket: see ``VsockSocket/send(_:options:)-(RawSpan,_)``. With
        /// MSG_DONTWAIT it does not block.
        @discardableResult
        public func send(
            _ bytes: RawSpan, options: SendOptions = SendOptions()
        ) throws(SocketError) -> Int {
            try bytes.withUnsafeBytes { (bytes) throws(SocketError) in try socket.socket.send(bytes, options) }
        }

        /// Sends an array, as the other `send`.
        @discardableResult
        public func send(_ bytes: [UInt8], options: SendOptions) throws(SocketError) -> Int {
            try send(bytes.span.bytes, options: options)
        }

        /// Sends an array, as the other `send`.
        @discardableResult
        public func send(
            _ bytes: [UInt8], endOfRecord: Bool = false
        ) throws(SocketError) -> Int { try send(bytes.span.bytes, options: SendOptions(endOfRecord: endOfRecord)) }

        /// Receives bytes of a stream or one record into the whole of `buffer`: see
        /// ``VsockSocket/receive(into:options:)-(MutableRawSpan,_)``. With MSG_DONTWAIT it does not block.
        public func receive(
            into buffer: inout MutableRawSpan, options: ReceiveOptions = ReceiveOptions()
        ) throws(SocketError) -> ReceiveResult {
            try buffer.withUnsafeMutableBytes { (bytes) throws(SocketError) in
                try socket.socket.receive(into: bytes, options)
            }
        }

        /// Receives into the whole of an array, whose count stays as it is, as the other `receive`.
        public func receive(
            into buffer: inout [UInt8], options: ReceiveOptions = ReceiveOptions()
        ) throws(SocketError) -> ReceiveResult {
            var span = buffer.mutableSpan
            return try span.withUnsafeMutableBytes { (bytes) throws(SocketError) in
                try socket.socket.receive(into: bytes, options)
            }
        }

        /// Receives behind what `buffer` has already: see ``VsockSocket/receive(appendingTo:options:)``.
        public func receive(
            appendingTo buffer: inout OutputRawSpan, options: ReceiveOptions = ReceiveOptions()
        ) throws(SocketError) -> ReceiveResult {
            try buffer.withUnsafeMutableBytes { (bytes, count) throws(SocketError) in
                let result = try socket.socket.receive(
                    into: UnsafeMutableRawBufferPointer(rebasing: bytes[count...]), options)
                count += result.count
                return result
            }
        }

        /// poll(2): blocks until one of `events` holds, an error or a hang-up; empty after `timeout`.
        public func poll(_ events: SocketReadiness, timeoutNanoseconds: UInt64? = nil) -> SocketReadiness {
            socket.socket.poll(events, timeoutNanoseconds: timeoutNanoseconds)
        }
    }
}
