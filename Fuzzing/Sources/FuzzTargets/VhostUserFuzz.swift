// SPDX-License-Identifier: Apache-2.0
//
// Messages of vhost-user against both sessions, without sockets: any bytes in any pieces, requests that are nearly
// right, in any order, with any number of descriptors, and with any outcome.

@testable import VhostUser

enum VhostUserFuzz {
    private static let slotLimit = 4
    /// STATUS, CONFIGURE_MEM_SLOTS, INFLIGHT_SHMFD, CONFIG, REPLY_ACK, MQ.
    private static let usualProtocolFeatures: UInt64 = 0b1_1001_0010_0000_1001

    static func run(_ input: inout FuzzInput) throws(FuzzFinding) {
        let protocolFeatures: ProtocolFeatures = [
            .multipleQueues, .config, .replyAck, .backendRequests, .configureMemorySlots, .resetDevice, .status,
        ]
        var session = BackendSession(
            BackendSession.Configuration(
                features: 1 << 32 | 1 << 29 | 1 << 28 | 3,
                protocolFeatures: input.flag() ? ProtocolFeatures(rawValue: .max) : protocolFeatures, queueCount: 3,
                maxQueueSize: 1024, maxMemorySlots: slotLimit),
            deviceConfiguration: [3, 0, 0, 0, 0, 0, 0, 0])
        var reader = MessageReader()
        while !input.isEmpty {
            switch input.below(8) {
            case 0: try stream(Array(input.take(1 + input.below(128))), &reader, &session, &input)
            case 1: try answer(&input)
            default:
                let bytes = request(&input)
                try stream(bytes, &reader, &session, &input)
            }
        }
    }

    /// Requests that a back-end serves.
    private static let served: [FrontendMessageType] = [
        .getFeatures, .setFeatures, .setOwner, .resetOwner, .setMemoryTable, .setVringNum, .setVringAddress,
        .setVringBase, .getVringBase, .setVringKick, .setVringCall, .setVringError, .getProtocolFeatures,
        .setProtocolFeatures, .getQueueNum, .setVringEnable, .setBackendRequestDescriptor, .getConfig, .setConfig,
        .getInflightDescriptor, .setInflightDescriptor, .resetDevice, .vringKick, .getMaxMemorySlots,
        .addMemoryRegion, .removeMemoryRegion, .setStatus, .getStatus,
    ]

    /// The bytes of a request, with its fields drawn from the input.
    static func request(_ input: inout FuzzInput) -> [UInt8] {
        let code = input.below(16) == 0 ? UInt32(1 + input.below(46)) : input.pick(served).rawValue
        let flags = UInt32(1) | (input.below(4) == 0 ? 8 : 0)
        var payload: [UInt8] = []
        func append<T: FixedWidthInteger>(_ value: T) { withUnsafeBytes(of: value.littleEndian) { payload += $0 } }
        func appendRegion() {
            let slot = UInt64(input.below(6))
            let isOdd = input.below(8) == 0
            append(isOdd ? input.number() : slot << 16)
            append(isOdd ? input.number() : 1 + UInt64(input.below(32)) << 12)
            append(isOdd ? input.number() : slot << 16)
            append(isOdd ? input.number() : 0)
        }
        switch FrontendMessageType(rawValue: code) {
        case .setMemoryTable:
            let count = input.below(10)
            append(
                UInt32(input.below(16) == 0 ? UInt64(truncatingIfNeeded: input.integer(UInt32.self)) : UInt64(count)))
            append(UInt32(0))
            for _ in 0..<count { appendRegion() }
        case .addMemoryRegion, .removeMemoryRegion:
            append(UInt64(0))
            appendRegion()
        case .setVringNum:
            append(UInt32(input.below(4)))
            append(UInt32(1) << UInt32(input.below(16)) &+ (input.below(8) == 0 ? 1 : 0))
        case .setVringBase, .getVringBase, .setVringEnable, .vringKick:
            append(UInt32(input.below(4)))
            append(input.below(4) == 0 ? UInt32(truncatingIfNeeded: input.number()) : UInt32(input.below(2)))
        case .setVringAddress:
            append(UInt32(input.below(4)))
            append(UInt32(input.below(2)))
            for _ in 0..<4 { append(input.below(4) == 0 ? input.number() : UInt64(input.below(6)) << 12) }
        case .setVringKick, .setVringCall, .setVringError:
            append(UInt64(input.below(4)) | (input.below(8) == 0 ? 1 << 8 : 0))
        case .getConfig, .setConfig:
            append(UInt32(input.below(12)))
            append(UInt32(input.below(12)))
            append(UInt32(input.below(3)))
            payload += input.padded(input.below(16))
        case .getInflightDescriptor, .setInflightDescriptor:
            append(input.flag() ? input.number() : UInt64(input.integer(UInt16.self)))
            append(input.below(4) == 0 ? input.number() : UInt64(input.below(4)) << 12)
            append(UInt16(input.below(5)))
            let size: UInt16 = 1 << UInt16(input.below(12))
            append(input.below(4) == 0 ? input.integer() : size)
        case .setFeatures:
            append(input.flag() ? (1 << 32 | 1 << 30 | 2) & ~(UInt64(input.below(4)) << 29) : input.number())
        case .setProtocolFeatures:
            append(input.flag() ? UInt64(input.integer(UInt32.self)) : Self.usualProtocolFeatures)
        default:
            append(input.number())
        }
        if input.below(16) == 0 { payload = Array(payload.prefix(input.below(payload.count + 1))) }
        var bytes: [UInt8] = []
        for word in [code, flags, UInt32(payload.count)] { withUnsafeBytes(of: word.littleEndian) { bytes += $0 } }
        return bytes + payload
    }

    /// The same bytes in one go or in pieces.
    private static func stream(
        _ bytes: [UInt8], _ reader: inout MessageReader, _ session: inout BackendSession, _ input: inout FuzzInput
    ) throws(FuzzFinding) {
        let piece = input.flag() ? bytes.count : 1 + input.below(8)
        var rest = bytes[...]
        while !rest.isEmpty {
            var message: Message?
            do throws(VhostUserError) {
                message = try reader.fill { buffer in
                    let count = min(buffer.count, rest.count, piece)
                    buffer.copyBytes(from: rest.prefix(count))
                    rest = rest.dropFirst(count)
                    return count
                }
            } catch {
                // The session is over; the next one begins.
                reader = MessageReader()
                return try check(error, &input)
            }
            if let message { try receive(message, &session, &input) }
            try expect(reader.bytesNeeded > 0, "a reader that has no message needs bytes")
        }
    }

    private static func receive(
        _ message: Message, _ session: inout BackendSession, _ input: inout FuzzInput
    ) throws(FuzzFinding) {
        var count = input.below(10)
        // Mostly as many as the message wants, whatever that is.
        let isCorrected = input.below(4) != 0
        for _ in 0..<2 {
            let outcome = Result { () throws(VhostUserError) in
                try session.receive(message, descriptorCount: count)
            }
            switch outcome {
            case .success(let request):
                try expect(request.claimedDescriptorCount <= count, "a request claims what came with it")
                return try complete(request, message.header, &session, &input)
            case .failure(.wrongDescriptorCount(_, let expected, _)) where isCorrected:
                try expect(expected != count, "the number that is expected is right")
                count = expected
            case .failure(let error):
                try check(error, &input)
                if let reply = session.refuse(message.header, error) { try check(reply, to: message.header) }
                return
            }
        }
        throw FuzzFinding("with the number of descriptors that is expected, another is")
    }

    /// A text takes longer than all the rest of a message.
    private static func check(_ error: VhostUserError, _ input: inout FuzzInput) throws(FuzzFinding) {
        if input.below(16) == 0 { try expect(!error.description.isEmpty, "an error has a text") }
    }

    private static func complete(
        _ request: BackendRequest, _ header: MessageHeader, _ session: inout BackendSession, _ input: inout FuzzInput
    ) throws(FuzzFinding) {
        var result: BackendResult = [.success, .success, .failure, .queueBase(input.integer())][input.below(4)]
        if case .getInflight(let area) = request.action, result == .success { result = .inflight(area) }
        if let reply = session.complete(request, result) {
            try check(reply, to: header)
        } else {
            try expect(!request.type.hasOwnReply, "a request that has a reply is answered")
        }
        try checkInvariants(session)
    }

    private static func check(_ reply: OutgoingMessage, to header: MessageHeader) throws(FuzzFinding) {
        guard let answered = try? MessageHeader(parsing: reply.bytes.span.bytes) else {
            throw FuzzFinding("a reply has a header")
        }
        try expect(
            answered.isReply && !answered.needsReply && answered.request == header.request
                && reply.bytes.count == MessageHeader.byteCount + answered.payloadByteCount
                && reply.descriptorCount
                    <= (header.request == FrontendMessageType.getInflightDescriptor.rawValue ? 1 : 0),
            "a reply answers the request")
    }

    private static func checkInvariants(_ session: BackendSession) throws(FuzzFinding) {
        let regions = session.memoryRegions
        try expect(regions.count <= slotLimit, "regions are counted")
        for (index, region) in regions.enumerated() {
            try expect(region.isWellFormed, "regions have sense")
            for other in regions[..<index] { try expect(!region.overlaps(other), "regions do not overlap") }
        }
        try expect(session.features & ~session.configuration.features == 0, "features were offered")
        try expect(
            session.protocolFeatures.isSubset(of: session.configuration.protocolFeatures), "likewise of the protocol")
        try expect(session.deviceConfiguration.count == 8, "the configuration space keeps its size")
        for queue in session.queues {
            try expect(queue.size <= 1024 && queue.size.nonzeroBitCount <= 1, "sizes are powers of two")
            try expect(!queue.isRunning || queue.isConfigured, "a queue that runs is set up")
        }
    }

    /// The front-end's session with a reply of any bytes.
    private static func answer(_ input: inout FuzzInput) throws(FuzzFinding) {
        let requests: [FrontendRequest] = [
            .getFeatures, .getProtocolFeatures, .getQueueCount, .getMaxMemorySlots, .getQueueBase(queue: 1),
            .getStatus, .getConfiguration(offset: 0, byteCount: 8), .getConfiguration(offset: 4, byteCount: 4),
            .setProtocolFeatures(.replyAck), .setQueueEnabled(queue: 0, true),
        ]
        var session = FrontendSession()
        for _ in 0..<(1 + input.below(3)) {
            let request = input.pick(requests)
            _ = session.send(request)
            guard session.awaitsReply else { continue }
            var header = MessageHeader(request: request.type.rawValue, isReply: true, payloadByteCount: 0)
            if input.below(8) == 0 { header.request = input.integer() }
            if input.below(8) == 0 { header.flags = input.integer() }
            let payload = input.padded(input.below(40))
            header.payloadByteCount = payload.count
            do throws(VhostUserError) {
                _ = try session.receive(
                    header, payload: payload.span.bytes, descriptorCount: input.below(8) == 0 ? 1 : 0)
            } catch {
                // A front-end that has got a bad reply gives up.
                return try check(error, &input)
            }
        }
    }
}
