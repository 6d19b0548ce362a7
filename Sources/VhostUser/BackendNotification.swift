// SPDX-License-Identifier: Apache-2.0
//
// What a back-end says over its own channel: vhost-user.rst "Back-end message types". Of those requests only the ones
// that a socket device has a use for are built; a front-end refuses the others.

/// A request of the back-end, on the channel of SET_BACKEND_REQ_FD.
public enum BackendNotification: Equatable, Sendable {
    /// The configuration space has changed; the front-end reads it again.
    case configurationChanged
    /// Buffers of the queue were used. In place of its call descriptor.
    case queueCall(Int)
    /// The queue is broken. In place of its error descriptor.
    case queueError(Int)

    var requiredProtocolFeature: ProtocolFeatures {
        switch self {
        case .configurationChanged: [.backendRequests, .config]
        case .queueCall, .queueError: [.backendRequests, .inbandNotifications]
        }
    }

    /// The message.
    ///
    /// - Parameter needsReply: ask for an acknowledgement. Some front-ends give a channel that only they can read (a
    ///   pipe of User Mode Linux): none ever comes from those.
    public func message(needsReply: Bool = false) -> OutgoingMessage {
        let (type, queue): (BackendMessageType, Int?) =
            switch self {
            case .configurationChanged: (.configChange, nil)
            case .queueCall(let queue): (.vringCall, queue)
            case .queueError(let queue): (.vringError, queue)
            }
        var payload: [UInt8] = []
        if let queue {
            payload.appendLittleEndian(UInt32(truncatingIfNeeded: queue))
            payload.appendLittleEndian(UInt32(0))
        }
        return OutgoingMessage(request: type.rawValue, needsReply: needsReply, payload: payload)
    }

    /// Reads a request of the back-end, in the front-end.
    ///
    /// - Throws: `.unsupportedBackendRequest` for those that carry descriptors or belong to other devices, too.
    public init(
        _ header: MessageHeader, payload: RawSpan, descriptorCount: Int
    ) throws(VhostUserError) {
        try header.checkVersion()
        guard let type = BackendMessageType(rawValue: header.request) else { throw .unknownRequest(header.request) }
        guard !header.isReply, descriptorCount == 0 else { throw .malformedBackendRequest(type) }
        switch type {
        case .configChange: self = .configurationChanged
        case .vringCall, .vringError:
            guard payload.byteCount >= 8 else { throw .malformedBackendRequest(type) }
            let queue = Int(payload.littleEndian(at: 0, as: UInt32.self))
            self = type == .vringCall ? .queueCall(queue) : .queueError(queue)
        default: throw .unsupportedBackendRequest(type)
        }
    }

    /// The front-end's answer to the request of `header`: nil if the back-end asked for none.
    public static func acknowledgement(of header: MessageHeader, success: Bool) -> OutgoingMessage? {
        guard header.needsReply else { return nil }
        return OutgoingMessage(acknowledging: header.request, success: success)
    }
}
