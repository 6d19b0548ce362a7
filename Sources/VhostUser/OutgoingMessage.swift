// SPDX-License-Identifier: Apache-2.0
//
// A message ready for the socket. Descriptors are not in here: whoever sends it attaches them to the first byte, as
// vhost-user.rst "Communication" asks.

/// The bytes of one message, header included.
public struct OutgoingMessage: Equatable, Sendable {
    /// Header and payload.
    public var bytes: [UInt8]
    /// Descriptors to send with the first byte.
    public var descriptorCount: Int

    init(
        request: UInt32, isReply: Bool = false, needsReply: Bool = false, payload: [UInt8] = [],
        descriptorCount: Int = 0
    ) {
        let header = MessageHeader(
            request: request, isReply: isReply, needsReply: needsReply, payloadByteCount: payload.count)
        bytes = []
        bytes.reserveCapacity(MessageHeader.byteCount + payload.count)
        header.emit(to: &bytes)
        bytes.append(contentsOf: payload)
        self.descriptorCount = descriptorCount
    }

    /// A reply whose payload is one integer.
    init(replyTo request: UInt32, value: UInt64) {
        var payload: [UInt8] = []
        payload.appendLittleEndian(value)
        self.init(request: request, isReply: true, payload: payload)
    }

    /// The acknowledgement that need_reply asks for: zero is success.
    init(acknowledging request: UInt32, success: Bool) {
        self.init(replyTo: request, value: success ? 0 : 1)
    }
}
