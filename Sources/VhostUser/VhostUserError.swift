// SPDX-License-Identifier: Apache-2.0
//
// What a session refuses. The scope of each is one vhost-user session: its socket is closed and every descriptor of
// the message with it, unless the refusal can be told to the front-end (`BackendSession.refuse`).

/// Why a vhost-user message was not accepted.
public enum VhostUserError: Error, Equatable, Sendable {
    // Violations: the peer does not speak the protocol, the session ends.

    /// Fewer than 12 bytes where a header should be.
    case shortHeader(byteCount: Int)
    /// The version bits are not 1.
    case wrongVersion(UInt32)
    /// The payload's size is above `MessageHeader.payloadLimit`.
    case payloadTooLarge(byteCount: UInt32)
    /// A request with the reply bit, or a reply without.
    case wrongDirection(request: UInt32)
    /// The payload is too short for the request.
    case shortPayload(request: UInt32, needed: Int, actual: Int)
    /// The message carries other than the number of descriptors that belongs to it.
    case wrongDescriptorCount(request: UInt32, expected: Int, actual: Int)
    /// A reply that answers something else than what was asked; `expected` is nil if nothing was.
    case unexpectedReply(expected: UInt32?, actual: UInt32)
    /// A request of the back-end with the reply bit, with descriptors, or too short.
    case malformedBackendRequest(BackendMessageType)

    // Refusals: well formed, but not acceptable here and now.

    /// A code that the protocol does not define.
    case unknownRequest(UInt32)
    /// A request that the protocol defines and this back-end does not serve, or did not offer.
    case unsupportedRequest(FrontendMessageType)
    /// The same for a request of the back-end.
    case unsupportedBackendRequest(BackendMessageType)
    /// Virtio features that were not offered; the value holds only those.
    case featuresNotOffered(UInt64)
    /// Protocol features that were not offered; the value holds only those.
    case protocolFeaturesNotOffered(ProtocolFeatures)
    /// INBAND_NOTIFICATIONS without BACKEND_REQ and REPLY_ACK.
    case inbandNotificationsIncomplete
    /// A queue that the device does not have.
    case queueIndexOutOfRange(index: UInt32, queueCount: Int)
    /// A queue size of zero, not a power of two, or above the limit.
    case invalidQueueSize(UInt32, limit: Int)
    /// A field with a value that the request does not define.
    case invalidValue(request: FrontendMessageType, value: UInt64)
    /// More regions than a message or the back-end holds.
    case tooManyMemoryRegions(count: Int, limit: Int)
    /// A region that is empty or wraps around.
    case invalidMemoryRegion(MemoryRegion)
    /// A region that shares guest or user addresses with another.
    case overlappingMemoryRegion(MemoryRegion)
    /// A region to remove that was never added.
    case unknownMemoryRegion(MemoryRegion)
    /// A write outside of the device's configuration space.
    case configurationOutOfRange(offset: UInt32, byteCount: UInt32)

    // Seen by a front-end.

    /// The back-end acknowledged the request with a failure.
    case requestFailed(FrontendMessageType, code: UInt64)
    /// The back-end has fewer queues than the device needs.
    case tooFewQueues(needed: Int, offered: Int)

    /// Whether the message was well formed, so that the session can go on once the front-end knows of the refusal.
    public var isRefusal: Bool {
        switch self {
        case .shortHeader, .wrongVersion, .payloadTooLarge, .wrongDirection, .shortPayload, .wrongDescriptorCount,
            .unexpectedReply, .malformedBackendRequest, .inbandNotificationsIncomplete, .requestFailed, .tooFewQueues:
            false
        case .unknownRequest, .unsupportedRequest, .unsupportedBackendRequest, .featuresNotOffered,
            .protocolFeaturesNotOffered, .queueIndexOutOfRange, .invalidQueueSize, .invalidValue,
            .tooManyMemoryRegions, .invalidMemoryRegion, .overlappingMemoryRegion, .unknownMemoryRegion,
            .configurationOutOfRange:
            true
        }
    }
}

extension VhostUserError: CustomStringConvertible {
    /// One line for a log.
    public var description: String {
        switch self {
        case .shortHeader(let byteCount): "header of \(byteCount) bytes, 12 needed"
        case .wrongVersion(let version): "protocol version \(version), 1 is spoken here"
        case .payloadTooLarge(let byteCount): "payload of \(byteCount) bytes, limit \(MessageHeader.payloadLimit)"
        case .wrongDirection(let request): "\(Self.name(request)): reply bit wrong"
        case .shortPayload(let request, let needed, let actual):
            "\(Self.name(request)): payload of \(actual) bytes, \(needed) needed"
        case .wrongDescriptorCount(let request, let expected, let actual):
            "\(Self.name(request)): \(actual) descriptors, \(expected) expected"
        case .unexpectedReply(let expected, let actual):
            "reply to \(Self.name(actual)), expected \(expected.map(Self.name) ?? "none")"
        case .malformedBackendRequest(let type): "back-end's \(type): malformed"
        case .unknownRequest(let code): "unknown request \(code)"
        case .unsupportedRequest(let type): "\(type): not supported"
        case .unsupportedBackendRequest(let type): "back-end's \(type): not supported"
        case .featuresNotOffered(let bits): "features 0x\(String(bits, radix: 16)) were not offered"
        case .protocolFeaturesNotOffered(let bits):
            "protocol features 0x\(String(bits.rawValue, radix: 16)) were not offered"
        case .inbandNotificationsIncomplete: "in-band notifications without BACKEND_REQ and REPLY_ACK"
        case .queueIndexOutOfRange(let index, let count): "queue \(index) of a device with \(count)"
        case .invalidQueueSize(let size, let limit): "queue size \(size), must be a power of two up to \(limit)"
        case .invalidValue(let request, let value): "\(request): invalid value \(value)"
        case .tooManyMemoryRegions(let count, let limit): "\(count) memory regions, limit \(limit)"
        case .invalidMemoryRegion(let region): "memory region is empty or wraps: \(region)"
        case .overlappingMemoryRegion(let region): "memory region overlaps another: \(region)"
        case .unknownMemoryRegion(let region): "no such memory region: \(region)"
        case .configurationOutOfRange(let offset, let byteCount):
            "configuration write of \(byteCount) bytes at \(offset) is out of range"
        case .requestFailed(let type, let code): "\(type): back-end reports failure \(code)"
        case .tooFewQueues(let needed, let offered): "back-end has \(offered) queues, \(needed) needed"
        }
    }

    private static func name(_ request: UInt32) -> String {
        FrontendMessageType(rawValue: request).map { "\($0)" } ?? "request \(request)"
    }
}
