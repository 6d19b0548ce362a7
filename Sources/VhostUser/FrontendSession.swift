// SPDX-License-Identifier: Apache-2.0
//
// The front-end's side of one vhost-user connection, for a driver in user space: vhost-user.rst "Communication".
// Requests go out one at a time: after `send`, if `awaitsReply`, the next message from the socket goes to `receive`
// before anything else is sent. As on the other side, no socket and no descriptor is touched here.

/// What the back-end answered.
public enum FrontendReply: Equatable, Sendable {
    /// Virtio features offered.
    case features(UInt64)
    /// Protocol features offered.
    case protocolFeatures(ProtocolFeatures)
    /// Queues that the back-end has.
    case queueCount(UInt64)
    /// Regions of memory that the back-end takes.
    case maxMemorySlots(UInt64)
    /// The ring is stopped; the next index of its available ring.
    case queueBase(queue: Int, UInt16)
    /// The configuration space, as much of it as was asked for.
    case configuration([UInt8])
    /// Memory for the record of what is in flight; nil when the back-end has none. Its descriptor came along.
    case inflight(InflightArea?)
    /// The virtio device status.
    case status(UInt8)
    /// The request was carried out.
    case acknowledged
}

/// The state of a vhost-user connection in the front-end.
public struct FrontendSession: Sendable {
    /// Virtio features that the back-end offers; nil until it has answered.
    public private(set) var offeredFeatures: UInt64?
    /// Protocol features that the back-end offers; nil until it has answered.
    public private(set) var offeredProtocolFeatures: ProtocolFeatures?
    /// Virtio features accepted.
    public private(set) var features: UInt64 = 0
    /// Protocol features accepted.
    public private(set) var protocolFeatures: ProtocolFeatures = []
    /// Queues that the back-end has; nil until it has answered.
    public private(set) var queueCount: UInt64?

    /// Memory that the back-end gave for the record of what is in flight.
    public private(set) var inflight: InflightArea?

    private var pending: FrontendRequest?

    /// A new connection: nothing sent yet.
    public init() {}

    /// Whether the back-end owes a reply, without which nothing more may be sent.
    public var awaitsReply: Bool { pending != nil }

    /// The message for `request`, with an acknowledgement asked for if REPLY_ACK is in force.
    public mutating func send(_ request: FrontendRequest) -> OutgoingMessage {
        precondition(pending == nil, "the reply to the last request was not received")
        let acknowledged = protocolFeatures.contains(.replyAck) && !request.type.hasOwnReply
        if acknowledged || request.type.hasOwnReply { pending = request }
        switch request {
        case .setFeatures(let accepted): features = accepted
        case .setProtocolFeatures(let accepted): protocolFeatures = accepted
        default: break
        }
        return request.message(needsReply: acknowledged)
    }

    /// Takes the reply that is awaited.
    ///
    /// - Throws: `.requestFailed` if the back-end could not do it; anything else means that it does not speak the
    ///   protocol. Only a reply with memory for what is in flight carries a descriptor.
    public mutating func receive(
        _ header: MessageHeader, payload: RawSpan, descriptorCount: Int
    ) throws(VhostUserError) -> FrontendReply {
        try header.checkVersion()
        guard header.isReply else { throw .wrongDirection(request: header.request) }
        guard let request = pending, request.type.rawValue == header.request else {
            throw .unexpectedReply(expected: pending?.type.rawValue, actual: header.request)
        }
        if case .getInflight = request {
            pending = nil
            return try inflightReply(payload, descriptorCount)
        }
        guard descriptorCount == 0 else {
            throw .wrongDescriptorCount(request: header.request, expected: 0, actual: descriptorCount)
        }
        pending = nil
        if case .getConfiguration(let offset, let byteCount) = request {
            return try configuration(payload, offset: offset, byteCount: byteCount)
        }
        guard payload.byteCount >= 8 else {
            throw .shortPayload(request: header.request, needed: 8, actual: payload.byteCount)
        }
        if case .getQueueBase(let queue) = request { return try queueBase(payload, queue) }
        return try integerReply(to: request, payload.littleEndian(at: 0))
    }

    /// The same for a message of `MessageReader`.
    public mutating func receive(_ message: Message, descriptorCount: Int) throws(VhostUserError) -> FrontendReply {
        try receive(message.header, payload: message.payload.span.bytes, descriptorCount: descriptorCount)
    }

    private mutating func integerReply(
        to request: FrontendRequest, _ value: UInt64
    ) throws(VhostUserError) -> FrontendReply {
        switch request {
        case .getFeatures:
            offeredFeatures = value
            return .features(value)
        case .getProtocolFeatures:
            let offered = ProtocolFeatures(rawValue: value)
            offeredProtocolFeatures = offered
            return .protocolFeatures(offered)
        case .getQueueCount:
            queueCount = value
            return .queueCount(value)
        case .getMaxMemorySlots: return .maxMemorySlots(value)
        case .getStatus:
            guard let status = UInt8(exactly: value) else {
                throw .invalidValue(request: request.type, value: value)
            }
            return .status(status)
        default:
            guard value == 0 else { throw .requestFailed(request.type, code: value) }
            return .acknowledged
        }
    }

    private mutating func inflightReply(
        _ payload: RawSpan, _ descriptorCount: Int
    ) throws(VhostUserError) -> FrontendReply {
        let code = FrontendMessageType.getInflightDescriptor.rawValue
        guard payload.byteCount >= InflightArea.minimumByteCount else {
            throw .shortPayload(request: code, needed: InflightArea.minimumByteCount, actual: payload.byteCount)
        }
        let area = InflightArea(parsing: payload)
        let expected = area.byteCount == 0 ? 0 : 1
        guard descriptorCount == expected else {
            throw .wrongDescriptorCount(request: code, expected: expected, actual: descriptorCount)
        }
        inflight = area.byteCount == 0 ? nil : area
        return .inflight(inflight)
    }

    private func queueBase(_ payload: RawSpan, _ queue: Int) throws(VhostUserError) -> FrontendReply {
        let index: UInt32 = payload.littleEndian(at: 0)
        let number: UInt32 = payload.littleEndian(at: 4)
        guard index == UInt32(truncatingIfNeeded: queue), let base = UInt16(exactly: number) else {
            throw .invalidValue(request: .getVringBase, value: payload.littleEndian(at: 0))
        }
        return .queueBase(queue: queue, base)
    }

    private func configuration(
        _ payload: RawSpan, offset: Int, byteCount: Int
    ) throws(VhostUserError) -> FrontendReply {
        // vhost-user.rst "VHOST_USER_GET_CONFIG": an empty payload is the back-end's way to say that it cannot.
        guard !payload.isEmpty else { throw .requestFailed(.getConfig, code: 0) }
        let header = ConfigurationAccess.headerByteCount
        guard payload.byteCount >= header + byteCount else {
            throw .shortPayload(
                request: FrontendMessageType.getConfig.rawValue, needed: header + byteCount, actual: payload.byteCount)
        }
        let access = ConfigurationAccess(parsing: payload)
        guard access.offset == UInt32(truncatingIfNeeded: offset),
            access.byteCount == UInt32(truncatingIfNeeded: byteCount)
        else {
            throw .invalidValue(request: .getConfig, value: UInt64(access.byteCount))
        }
        return .configuration(payload.copy(header..<(header + byteCount)))
    }
}
