// SPDX-License-Identifier: Apache-2.0
//
// The second step of a message: the session takes note of what was done, and answers. A request either has a reply of
// its own, or is acknowledged if the front-end asked for that and REPLY_ACK is in force: vhost-user.rst "REPLY_ACK".

extension BackendSession {
    /// Takes note of the outcome of `request`.
    ///
    /// - Returns: the message to send to the front-end, or nil if it expects none.
    public mutating func complete(_ request: BackendRequest, _ result: BackendResult) -> OutgoingMessage? {
        let acknowledgedBefore = protocolFeatures.contains(.replyAck)
        // GET_VRING_BASE has no way to fail: its reply says that the ring is stopped.
        if result != .failure || request.type == .getVringBase { apply(request.action, result) }
        if request.type.hasOwnReply { return ownReply(to: request, result) }
        // User Mode Linux asks for the acknowledgement in the very message that accepts REPLY_ACK.
        guard request.needsReply, acknowledgedBefore || protocolFeatures.contains(.replyAck) else { return nil }
        return OutgoingMessage(acknowledging: request.type.rawValue, success: result != .failure)
    }

    /// How to tell the front-end that `receive` threw `error` for the message of `header`.
    ///
    /// - Returns: a failure acknowledgement, after which the session goes on; nil if the connection is to be closed,
    ///   because the front-end does not speak the protocol, did not ask, or expects a reply of another form.
    public func refuse(_ header: MessageHeader, _ error: VhostUserError) -> OutgoingMessage? {
        guard error.isRefusal, header.needsReply, protocolFeatures.contains(.replyAck) else { return nil }
        if let type = FrontendMessageType(rawValue: header.request), type.hasOwnReply { return nil }
        return OutgoingMessage(acknowledging: header.request, success: false)
    }

    private mutating func apply(_ action: BackendRequest.Action, _ result: BackendResult) {
        switch action {
        case .setFeatures(let accepted):
            features = accepted
            // vhost-user.rst "Ring states": without bit 30 all rings are enabled immediately.
            if !ringsAwaitEnable { setAllQueues(enabled: true) }
        case .setProtocolFeatures(let accepted): protocolFeatures = accepted
        case .setOwner: hasOwner = true
        case .resetOwner: setAllQueues(enabled: false)
        case .setMemoryTable(let regions): memoryRegions = regions
        case .addMemoryRegion(let region): memoryRegions.append(region)
        case .removeMemoryRegion(let region): memoryRegions.removeAll { $0 == region }
        case .setBackendChannel: hasBackendChannel = true
        case .setConfiguration(let offset, let bytes, _):
            deviceConfiguration.replaceSubrange(offset..<(offset + bytes.count), with: bytes)
        case .setStatus(let value):
            if value == 0 { reset() }
            status = value
        case .resetDevice: reset()
        case .none, .getConfiguration, .setLogBase, .setLogDescriptor, .getInflight, .setInflight: break
        case .setQueueSize, .setQueueAddresses, .setQueueBase, .getQueueBase, .setKick, .setCall, .setError,
            .setQueueEnabled, .kick:
            applyToQueue(action, result)
        }
    }

    private mutating func applyToQueue(_ action: BackendRequest.Action, _ result: BackendResult) {
        switch action {
        case .setQueueSize(let queue, let size):
            queues[queue].stopForSetup()
            queues[queue].size = size
        case .setQueueAddresses(let queue, let addresses): queues[queue].addresses = addresses
        case .setQueueBase(let queue, let base):
            queues[queue].stopForSetup()
            queues[queue].base = base
        case .getQueueBase(let queue):
            queues[queue].stop()
            if case .queueBase(let base) = result { queues[queue].base = base }
        case .setKick(let queue, let hasDescriptor):
            queues[queue].hasKick = hasDescriptor
            queues[queue].isStarted = true
        case .setCall(let queue, let hasDescriptor): queues[queue].hasCall = hasDescriptor
        case .setError(let queue, let hasDescriptor): queues[queue].hasError = hasDescriptor
        case .setQueueEnabled(let queue, let isEnabled): queues[queue].isEnabled = isEnabled
        case .kick(let queue): queues[queue].isStarted = true
        default: break
        }
    }

    private mutating func setAllQueues(enabled: Bool) {
        for queue in queues.indices { queues[queue].isEnabled = enabled }
    }

    private mutating func reset() {
        for queue in queues.indices { queues[queue].reset() }
        features = 0
        status = 0
    }
}

// MARK: - Replies

extension BackendSession {
    private func ownReply(to request: BackendRequest, _ result: BackendResult) -> OutgoingMessage? {
        let code = request.type.rawValue
        switch request.type {
        case .getFeatures: return OutgoingMessage(replyTo: code, value: configuration.features)
        case .getProtocolFeatures:
            return OutgoingMessage(replyTo: code, value: configuration.protocolFeatures.rawValue)
        case .getQueueNum: return OutgoingMessage(replyTo: code, value: UInt64(configuration.queueCount))
        case .getMaxMemorySlots: return OutgoingMessage(replyTo: code, value: UInt64(configuration.maxMemorySlots))
        case .getStatus: return OutgoingMessage(replyTo: code, value: UInt64(status))
        case .setLogBase: return OutgoingMessage(acknowledging: code, success: result != .failure)
        default: break
        }
        switch request.action {
        case .getQueueBase(let queue):
            var payload: [UInt8] = []
            payload.appendLittleEndian(UInt32(queue))
            payload.appendLittleEndian(UInt32(queues[queue].base))
            return OutgoingMessage(request: code, isReply: true, payload: payload)
        case .getInflight: return inflightReply(result)
        case .getConfiguration(let offset, let byteCount, let flags):
            return configurationReply(ConfigurationAccess(offset: offset, byteCount: byteCount, flags: flags))
        default: return nil
        }
    }

    /// An area of no bytes, without a descriptor, is how a back-end says that it has none.
    private func inflightReply(_ result: BackendResult) -> OutgoingMessage {
        var payload: [UInt8] = []
        var descriptorCount = 0
        if case .inflight(let area) = result {
            area.emit(to: &payload)
            descriptorCount = 1
        } else {
            InflightArea(queueCount: 0, queueSize: 0).emit(to: &payload)
        }
        return OutgoingMessage(
            request: FrontendMessageType.getInflightDescriptor.rawValue, isReply: true, payload: payload,
            descriptorCount: descriptorCount)
    }

    /// Always as long as what was asked for: QEMU checks the size, Cloud Hypervisor ends on an error. Only a range that
    /// no message can carry is answered by the empty payload that the specification has for errors.
    private func configurationReply(_ access: ConfigurationAccess) -> OutgoingMessage {
        let code = FrontendMessageType.getConfig.rawValue
        let limit = MessageHeader.payloadLimit - ConfigurationAccess.headerByteCount
        guard access.byteCount <= UInt32(limit) else { return OutgoingMessage(request: code, isReply: true) }
        var payload: [UInt8] = []
        access.emit(to: &payload)
        let known = deviceConfiguration.dropFirst(Int(access.offset)).prefix(Int(access.byteCount))
        payload.append(contentsOf: known)
        payload.append(contentsOf: repeatElement(0, count: Int(access.byteCount) - known.count))
        return OutgoingMessage(request: code, isReply: true, payload: payload)
    }
}
