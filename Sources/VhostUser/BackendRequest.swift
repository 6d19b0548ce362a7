// SPDX-License-Identifier: Apache-2.0
//
// What a message asks of the back-end, checked and typed. Descriptors are named by position: an action claims the
// first `claimedDescriptorCount` of the message's, in order; the caller closes those that remain.

/// A checked request of the front-end. Carry out `action`, then hand it to `BackendSession.complete`.
public struct BackendRequest: Equatable, Sendable {
    /// What is left for the caller to do; a queue's index is always that of an existing queue.
    public enum Action: Equatable, Sendable {
        /// Nothing: the session has all it needs.
        case none
        /// These virtio features are in force from now on. Bit 30 is among them if the front-end accepted it.
        case setFeatures(UInt64)
        /// These protocol features are in force from now on.
        case setProtocolFeatures(ProtocolFeatures)
        /// The front-end begins the session.
        case setOwner
        /// All rings are disabled. (Deprecated request; connection state stays, as the specification recommends.)
        case resetOwner
        /// Map these regions, one descriptor each, in place of all earlier ones. Running rings go on.
        case setMemoryTable([MemoryRegion])
        /// Map one more region, from the one descriptor.
        case addMemoryRegion(MemoryRegion)
        /// Unmap this region, which is one of those known. Its mmap offset is that of the addition.
        case removeMemoryRegion(MemoryRegion)
        /// Log dirty pages to the one descriptor.
        case setLogBase(LogArea)
        /// Signal the one descriptor when the log changes.
        case setLogDescriptor
        /// The ring has this many entries: a power of two. A ring that was set up stops
        /// and loses its kick descriptor.
        case setQueueSize(queue: Int, size: Int)
        /// The ring lies here. It may be running: then its indices go on.
        case setQueueAddresses(queue: Int, VringAddress)
        /// Processing will begin at this index of the available ring. A ring that was set
        /// up stops and loses its kick descriptor.
        case setQueueBase(queue: Int, UInt16)
        /// Stop the ring, drop its kick descriptor, and complete with `.queueBase`.
        case getQueueBase(queue: Int)
        /// Replace the kick descriptor, and start the ring. Without a descriptor the ring is polled.
        case setKick(queue: Int, hasDescriptor: Bool)
        /// Replace the call descriptor; without one the front-end polls.
        case setCall(queue: Int, hasDescriptor: Bool)
        /// Replace the error descriptor; without one nobody is told.
        case setError(queue: Int, hasDescriptor: Bool)
        /// Let processing of the ring have effects, or not.
        case setQueueEnabled(queue: Int, Bool)
        /// Buffers are available, told in-band; starts the ring.
        case kick(queue: Int)
        /// Keep the one descriptor as the channel for requests of the back-end, open until it is replaced or the
        /// session ends: User Mode Linux removes the device when it closes.
        case setBackendChannel
        /// Nothing: the session answers from `deviceConfiguration`, with zeros outside of it.
        case getConfiguration(offset: UInt32, byteCount: UInt32, flags: UInt32)
        /// Write to the configuration space; the range lies inside of it. Fields that the driver may not write are to
        /// be refused unless `isMigration`.
        case setConfiguration(offset: Int, bytes: [UInt8], isMigration: Bool)
        /// Make memory for the record of what is in flight, zeroed, and complete with `.inflight` or `.failure`; of the
        /// area only the counts have a meaning, and they are not checked.
        case getInflight(InflightArea)
        /// Record what is in flight in this memory, mapped from the one descriptor. What is recorded there already is
        /// in flight: a back-end before this one has taken it. The counts are checked, the place is not.
        case setInflight(InflightArea)
        /// The virtio device status. Zero is a reset, as `resetDevice`.
        case setStatus(UInt8)
        /// Reset the device: rings stop and are disabled, features are forgotten; memory, protocol features and
        /// the back-end's channel stay.
        case resetDevice
    }

    /// The message's type.
    public let type: FrontendMessageType
    /// What to do.
    public let action: Action
    /// Whether the front-end set need_reply.
    public let needsReply: Bool

    /// Descriptors, from the message's first, that `action` takes over. Any others are the caller's to close.
    public var claimedDescriptorCount: Int {
        switch action {
        case .setMemoryTable(let regions): regions.count
        case .addMemoryRegion, .setLogBase, .setLogDescriptor, .setBackendChannel, .setInflight: 1
        case .setKick(_, let hasDescriptor), .setCall(_, let hasDescriptor), .setError(_, let hasDescriptor):
            hasDescriptor ? 1 : 0
        case .none, .setFeatures, .setProtocolFeatures, .setOwner, .resetOwner, .removeMemoryRegion, .setQueueSize,
            .setQueueAddresses, .setQueueBase, .getQueueBase, .setQueueEnabled, .kick, .getConfiguration,
            .setConfiguration, .getInflight, .setStatus, .resetDevice:
            0
        }
    }
}

/// What became of a request.
public enum BackendResult: Equatable, Sendable {
    /// It was done.
    case success
    /// It could not be done, and nothing has changed. Only what is acknowledged, and SET_LOG_BASE, can fail.
    case failure
    /// The ring is stopped, and this is the next index of the available ring.
    case queueBase(UInt16)
    /// The memory was made; its descriptor is sent with the reply.
    case inflight(InflightArea)
}
