// SPDX-License-Identifier: Apache-2.0
//
// The first step of a message: from bytes to a checked request. Order of the checks: direction and version, known,
// offered, long enough, values, descriptors; nothing here changes the session.

extension BackendSession {
    /// Checks a message and says what it asks for.
    ///
    /// - Parameters:
    ///   - payload: what followed the header.
    ///   - descriptorCount: how many descriptors came with the message.
    /// - Throws: what is wrong. The caller closes the message's descriptors, then asks `refuse` how to go on.
    public func receive(
        _ header: MessageHeader, payload: RawSpan, descriptorCount: Int
    ) throws(VhostUserError) -> BackendRequest {
        try header.checkVersion()
        guard !header.isReply else { throw .wrongDirection(request: header.request) }
        guard let type = FrontendMessageType(rawValue: header.request) else { throw .unknownRequest(header.request) }
        guard configuration.protocolFeatures.isSuperset(of: type.requiredProtocolFeature) else {
            throw .unsupportedRequest(type)
        }
        let needed = type.minimumPayloadByteCount
        guard payload.byteCount >= needed else {
            throw .shortPayload(request: type.rawValue, needed: needed, actual: payload.byteCount)
        }
        let action = try action(of: type, payload)
        let request = BackendRequest(type: type, action: action, needsReply: header.needsReply)
        try checkDescriptorCount(descriptorCount, of: request)
        return request
    }

    /// The same for a message of `MessageReader`.
    public func receive(_ message: Message, descriptorCount: Int) throws(VhostUserError) -> BackendRequest {
        try receive(message.header, payload: message.payload.span.bytes, descriptorCount: descriptorCount)
    }

    private func action(
        of type: FrontendMessageType, _ payload: RawSpan
    ) throws(VhostUserError) -> BackendRequest.Action {
        switch type {
        case .getFeatures, .getProtocolFeatures, .getQueueNum, .getMaxMemorySlots, .getStatus: return .none
        case .setFeatures: return .setFeatures(try offeredFeatures(payload))
        case .setProtocolFeatures: return .setProtocolFeatures(try offeredProtocolFeatures(payload))
        case .setOwner: return .setOwner
        case .resetOwner: return .resetOwner
        case .setMemoryTable: return .setMemoryTable(try memoryTable(payload))
        case .addMemoryRegion: return .addMemoryRegion(try addedRegion(payload))
        case .removeMemoryRegion: return .removeMemoryRegion(try removedRegion(payload))
        case .setLogBase:
            return .setLogBase(
                LogArea(byteCount: payload.littleEndian(at: 0), mmapOffset: payload.littleEndian(at: 8)))
        case .setLogDescriptor: return .setLogDescriptor
        case .setVringNum, .setVringAddress, .setVringBase, .getVringBase, .setVringKick, .setVringCall,
            .setVringError, .setVringEnable, .vringKick:
            return try ringAction(of: type, payload)
        case .setBackendRequestDescriptor: return .setBackendChannel
        case .getConfig:
            let access = ConfigurationAccess(parsing: payload)
            return .getConfiguration(offset: access.offset, byteCount: access.byteCount, flags: access.flags)
        case .setConfig: return try configurationWrite(payload)
        case .setStatus:
            let value: UInt64 = payload.littleEndian(at: 0)
            guard let status = UInt8(exactly: value) else { throw .invalidValue(request: type, value: value) }
            return .setStatus(status)
        case .getInflightDescriptor: return .getInflight(InflightArea(parsing: payload))
        case .setInflightDescriptor: return .setInflight(try inflightArea(type, payload))
        case .resetDevice: return .resetDevice
        case .sendRARP, .setNetworkMTU, .iotlbMessage, .setVringEndian, .createCryptoSession, .closeCryptoSession,
            .postcopyAdvise, .postcopyListen, .postcopyEnd, .setGPUSocket, .getSharedObject, .setDeviceStateDescriptor,
            .checkDeviceState, .getSharedMemoryConfig:
            throw .unsupportedRequest(type)
        }
    }

    // vhost-user.rst "VHOST_USER_REM_MEM_REG": front-ends in use pass a descriptor, which is closed unused.
    private func checkDescriptorCount(_ count: Int, of request: BackendRequest) throws(VhostUserError) {
        let expected = request.claimedDescriptorCount
        let tolerated = request.type == .removeMemoryRegion ? 1 : expected
        guard (expected...tolerated).contains(count) else {
            throw .wrongDescriptorCount(request: request.type.rawValue, expected: expected, actual: count)
        }
    }
}

// MARK: - Negotiation and configuration

extension BackendSession {
    private func offeredFeatures(_ payload: RawSpan) throws(VhostUserError) -> UInt64 {
        let accepted: UInt64 = payload.littleEndian(at: 0)
        let excess = accepted & ~configuration.features
        guard excess == 0 else { throw .featuresNotOffered(excess) }
        return accepted
    }

    // vhost-user.rst "In-band notifications": without the other two the back-end should close the connection.
    private func offeredProtocolFeatures(_ payload: RawSpan) throws(VhostUserError) -> ProtocolFeatures {
        let accepted = ProtocolFeatures(rawValue: payload.littleEndian(at: 0))
        let excess = accepted.subtracting(configuration.protocolFeatures)
        guard excess.isEmpty else { throw .protocolFeaturesNotOffered(excess) }
        if accepted.contains(.inbandNotifications), !accepted.isSuperset(of: [.backendRequests, .replyAck]) {
            throw .inbandNotificationsIncomplete
        }
        return accepted
    }

    private func inflightArea(_ type: FrontendMessageType, _ payload: RawSpan) throws(VhostUserError) -> InflightArea {
        let area = InflightArea(parsing: payload)
        guard (1...configuration.queueCount).contains(area.queueCount) else {
            throw .invalidValue(request: type, value: UInt64(area.queueCount))
        }
        guard (1...configuration.maxQueueSize).contains(area.queueSize) else {
            throw .invalidQueueSize(UInt32(area.queueSize), limit: configuration.maxQueueSize)
        }
        return area
    }

    private func configurationWrite(_ payload: RawSpan) throws(VhostUserError) -> BackendRequest.Action {
        let access = ConfigurationAccess(parsing: payload)
        let end = UInt64(access.offset) + UInt64(access.byteCount)
        guard end <= UInt64(deviceConfiguration.count) else {
            throw .configurationOutOfRange(offset: access.offset, byteCount: access.byteCount)
        }
        let header = ConfigurationAccess.headerByteCount
        let needed = header + Int(access.byteCount)
        guard payload.byteCount >= needed else {
            throw .shortPayload(
                request: FrontendMessageType.setConfig.rawValue, needed: needed, actual: payload.byteCount)
        }
        return .setConfiguration(
            offset: Int(access.offset), bytes: payload.copy(header..<needed),
            isMigration: access.flags & ConfigurationAccess.migrationFlag != 0)
    }
}

// MARK: - Memory

extension BackendSession {
    private func memoryTable(_ payload: RawSpan) throws(VhostUserError) -> [MemoryRegion] {
        let count: UInt32 = payload.littleEndian(at: 0)
        let limit = min(MemoryRegion.tableLimit, configuration.maxMemorySlots)
        guard count <= UInt32(limit) else { throw .tooManyMemoryRegions(count: Int(count), limit: limit) }
        let needed = 8 + Int(count) * MemoryRegion.encodedByteCount
        guard payload.byteCount >= needed else {
            throw .shortPayload(
                request: FrontendMessageType.setMemoryTable.rawValue, needed: needed, actual: payload.byteCount)
        }
        var regions: [MemoryRegion] = []
        for offset in stride(from: 8, to: needed, by: MemoryRegion.encodedByteCount) {
            let region = MemoryRegion(parsing: payload, at: offset)
            try regions.checkAddition(of: region)
            regions.append(region)
        }
        return regions
    }

    private func addedRegion(_ payload: RawSpan) throws(VhostUserError) -> MemoryRegion {
        let region = MemoryRegion(parsing: payload, at: 8)
        guard memoryRegions.count < configuration.maxMemorySlots else {
            throw .tooManyMemoryRegions(count: memoryRegions.count + 1, limit: configuration.maxMemorySlots)
        }
        try memoryRegions.checkAddition(of: region)
        return region
    }

    private func removedRegion(_ payload: RawSpan) throws(VhostUserError) -> MemoryRegion {
        let named = MemoryRegion(parsing: payload, at: 8)
        guard let region = memoryRegions.first(where: { $0.isIdentified(by: named) }) else {
            throw .unknownMemoryRegion(named)
        }
        return region
    }
}

// MARK: - Rings

extension BackendSession {
    // vhost-user.rst "VHOST_USER_SET_VRING_KICK": bits 0-7 are the index, bit 8 says that no descriptor comes along.
    private static let descriptorIndexMask: UInt64 = 0xff
    private static let noDescriptorFlag: UInt64 = 1 << 8

    private func ringAction(
        of type: FrontendMessageType, _ payload: RawSpan
    ) throws(VhostUserError) -> BackendRequest.Action {
        switch type {
        case .setVringKick, .setVringCall, .setVringError:
            let word: UInt64 = payload.littleEndian(at: 0)
            let queue = try queueIndex(UInt32(word & Self.descriptorIndexMask))
            let hasDescriptor = word & Self.noDescriptorFlag == 0
            if type == .setVringKick { return .setKick(queue: queue, hasDescriptor: hasDescriptor) }
            if type == .setVringCall { return .setCall(queue: queue, hasDescriptor: hasDescriptor) }
            return .setError(queue: queue, hasDescriptor: hasDescriptor)
        case .setVringAddress:
            let queue = try queueIndex(payload.littleEndian(at: 0))
            return .setQueueAddresses(queue: queue, VringAddress(parsing: payload))
        default:
            let queue = try queueIndex(payload.littleEndian(at: 0))
            return try ringStateAction(of: type, queue, number: payload.littleEndian(at: 4))
        }
    }

    /// The requests whose payload is "a vring state description": index and number.
    private func ringStateAction(
        of type: FrontendMessageType, _ queue: Int, number: UInt32
    ) throws(VhostUserError) -> BackendRequest.Action {
        switch type {
        case .setVringNum:
            let limit = configuration.maxQueueSize
            guard number.nonzeroBitCount == 1, number <= UInt32(limit) else {
                throw .invalidQueueSize(number, limit: limit)
            }
            return .setQueueSize(queue: queue, size: Int(number))
        case .setVringBase:
            guard let base = UInt16(exactly: number) else {
                throw .invalidValue(request: type, value: UInt64(number))
            }
            return .setQueueBase(queue: queue, base)
        case .setVringEnable:
            guard number <= 1 else { throw .invalidValue(request: type, value: UInt64(number)) }
            return .setQueueEnabled(queue: queue, number == 1)
        case .getVringBase: return .getQueueBase(queue: queue)
        case .vringKick: return .kick(queue: queue)
        default: throw .unsupportedRequest(type)
        }
    }

    private func queueIndex(_ index: UInt32) throws(VhostUserError) -> Int {
        guard index < UInt32(configuration.queueCount) else {
            throw .queueIndexOutOfRange(index: index, queueCount: configuration.queueCount)
        }
        return Int(index)
    }
}
