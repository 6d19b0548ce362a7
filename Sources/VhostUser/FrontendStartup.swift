// SPDX-License-Identifier: Apache-2.0
//
// The order in which a front-end brings a device up, as QEMU and Cloud Hypervisor do it: negotiate, read the
// configuration, share memory, describe and start each ring, and only then enable them.

/// A script of requests that starts a device. Feed it by `while let request = try startup.next(after: session)`,
/// sending each request and receiving its reply before the next is asked for.
public struct FrontendStartup: Sendable {
    /// A ring as its driver laid it out.
    public struct Queue: Equatable, Sendable {
        /// Entries of the ring.
        public var size: Int
        /// Where it lies, in user addresses.
        public var addresses: VringAddress
        /// The index of the available ring to begin at.
        public var base: UInt16

        /// A ring; `base` is not 0 if it has run before.
        public init(size: Int, addresses: VringAddress, base: UInt16 = 0) {
            self.size = size
            self.addresses = addresses
            self.base = base
        }
    }

    /// Virtio features wanted; what the back-end does not offer is left out.
    public var features: UInt64
    /// Protocol features wanted; what the back-end does not offer is left out. With `.backendRequests` accepted the
    /// script sends the channel.
    public var protocolFeatures: ProtocolFeatures
    /// Bytes of configuration space to read, if CONFIG is accepted; 0 for none.
    public var configurationByteCount: Int
    /// Guest memory, at most `MemoryRegion.tableLimit` regions.
    public var memory: [MemoryRegion]
    /// The rings, by queue index.
    public var queues: [Queue]
    /// The record of what is in flight that an earlier back-end has left. Without one, and with `.inflightSharedMemory`
    /// accepted, the script asks for a new one and hands that back.
    public var inflight: InflightArea?

    private enum Stage { case identity, protocolOffer, protocolChoice, device, queues, done }
    private var stage = Stage.identity
    private var requests: ArraySlice<FrontendRequest> = []

    /// A script for a new connection.
    public init(
        features: UInt64, protocolFeatures: ProtocolFeatures, configurationByteCount: Int, memory: [MemoryRegion],
        queues: [Queue], inflight: InflightArea? = nil
    ) {
        self.features = features
        self.protocolFeatures = protocolFeatures
        self.configurationByteCount = configurationByteCount
        self.memory = memory
        self.queues = queues
        self.inflight = inflight
    }

    /// The next request, or nil when the device is up.
    ///
    /// - Parameter session: has received the reply to the last request.
    /// - Throws: `.tooFewQueues` if the back-end says so.
    public mutating func next(after session: FrontendSession) throws(VhostUserError) -> FrontendRequest? {
        while requests.isEmpty {
            switch stage {
            case .identity:
                requests = [.setOwner, .getFeatures]
                stage = .protocolOffer
            case .protocolOffer:
                requests = hasProtocolFeatures(session) ? [.getProtocolFeatures] : []
                stage = .protocolChoice
            case .protocolChoice:
                requests = hasProtocolFeatures(session) ? negotiation(session)[...] : []
                stage = .device
            case .device:
                if let offered = session.queueCount, offered < UInt64(queues.count) {
                    throw .tooFewQueues(needed: queues.count, offered: Int(clamping: offered))
                }
                requests = deviceRequests(session)[...]
                stage = .queues
            case .queues:
                requests = queueRequests(session)[...]
                stage = .done
            case .done: return nil
            }
        }
        return requests.removeFirst()
    }

    private func hasProtocolFeatures(_ session: FrontendSession) -> Bool {
        (session.offeredFeatures ?? 0) & ProtocolFeatures.virtioFeatureBit != 0
    }

    private func negotiation(_ session: FrontendSession) -> [FrontendRequest] {
        let accepted = protocolFeatures.intersection(session.offeredProtocolFeatures ?? [])
        var requests: [FrontendRequest] = [.setProtocolFeatures(accepted)]
        if accepted.contains(.multipleQueues) { requests.append(.getQueueCount) }
        if accepted.contains(.backendRequests) { requests.append(.setBackendChannel) }
        if accepted.contains(.config), configurationByteCount > 0 {
            requests.append(.getConfiguration(offset: 0, byteCount: configurationByteCount))
        }
        return requests
    }

    private func deviceRequests(_ session: FrontendSession) -> [FrontendRequest] {
        let wanted = features | ProtocolFeatures.virtioFeatureBit
        var requests: [FrontendRequest] = [
            .setFeatures(wanted & (session.offeredFeatures ?? 0)), .setMemoryTable(memory),
        ]
        if session.protocolFeatures.contains(.inflightSharedMemory), inflight == nil,
            let size = queues.map(\.size).max()
        {
            requests.append(.getInflight(InflightArea(queueCount: queues.count, queueSize: size)))
        }
        return requests
    }

    private func queueRequests(_ session: FrontendSession) -> [FrontendRequest] {
        var requests: [FrontendRequest] = []
        if session.protocolFeatures.contains(.inflightSharedMemory), let area = inflight ?? session.inflight {
            requests.append(.setInflight(area))
        }
        for (index, queue) in queues.enumerated() {
            requests += [
                .setQueueSize(queue: index, size: queue.size),
                .setQueueBase(queue: index, queue.base),
                .setQueueAddresses(queue: index, queue.addresses),
                .setCall(queue: index, hasDescriptor: true),
                .setKick(queue: index, hasDescriptor: true),
            ]
        }
        if hasProtocolFeatures(session) {
            requests += queues.indices.map { .setQueueEnabled(queue: $0, true) }
        }
        return requests
    }
}
