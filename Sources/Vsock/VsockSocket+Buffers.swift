// SPDX-License-Identifier: Apache-2.0
//
// The same calls for arrays and for buffers that are filled from their free end.

import VsockCore
import VsockTransport

extension VsockSocket {
    /// Sends an array: see ``VsockSocket/send(_:options:)-(RawSpan,_)``.
    @discardableResult
    nonisolated(nonsending) public func send(
        _ bytes: [UInt8], options: SendOptions
    ) async throws(SocketError) -> Int {
        try await socket.send(bytes.span.bytes, options)
    }

    /// Sends an array, with MSG_EOR or without, which a stream ignores: see
    /// ``VsockSocket/send(_:options:)-(RawSpan,_)``.
    @discardableResult
    nonisolated(nonsending) public func send(
        _ bytes: [UInt8], endOfRecord: Bool = false
    ) async throws(SocketError) -> Int {
        try await socket.send(bytes.span.bytes, SendOptions(endOfRecord: endOfRecord))
    }

    /// Receives into the whole of an array, whose count stays as it is: see
    /// ``VsockSocket/receive(into:options:)-(MutableRawSpan,_)``.
    nonisolated(nonsending) public func receive(
        into buffer: inout [UInt8], options: ReceiveOptions = ReceiveOptions()
    ) async throws(SocketError) -> ReceiveResult {
        var span = buffer.mutableSpan
        var bytes = span.mutableBytes
        return try await socket.receive(into: &bytes, options)
    }

    /// Receives behind what `buffer` has already, up to its capacity: see
    /// ``VsockSocket/receive(into:options:)-(MutableRawSpan,_)``. What was received counts as initialized afterwards, also
    /// with MSG_PEEK.
    nonisolated(nonsending) public func receive(
        appendingTo buffer: inout OutputRawSpan, options: ReceiveOptions = ReceiveOptions()
    ) async throws(SocketError) -> ReceiveResult {
        try await socket.receive(appendingTo: &buffer, options)
    }
}
