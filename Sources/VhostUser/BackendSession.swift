// SPDX-License-Identifier: Apache-2.0
//
// The back-end's side of one vhost-user connection: vhost-user.rst "Communication", "Ring states", "REPLY_ACK".
// It decides what a message means and what is answered; it reads no socket, owns no descriptor and maps no memory.
//
// Every message takes two steps:
//   1. `receive` checks it against the state and returns what the caller has to do. It changes nothing.
//   2. `complete` takes the outcome, changes the state, and returns the bytes to send, if any.
// If `receive` throws, `refuse` says whether the front-end can be told; if it cannot, the connection is to be closed.
// Requests are taken one at a time: complete each before the next is received.
//
// What the session is lenient about, because front-ends in use need it: payloads longer than their meaning, requests
// of an extension that was offered and not accepted, SET_VRING_ENABLE without bit 30, GET_CONFIG of any range.

/// The state of a vhost-user connection in the back-end.
public struct BackendSession: Sendable {
    /// What a device offers to its front-end.
    public struct Configuration: Sendable {
        /// The most regions of memory that a front-end may add one by one: what a KVM guest on x86-64 can have (512
        /// slots, three of them KVM's own), so that we are never the first limit.
        public static let memorySlotLimit = 509

        /// The most queues that SET_VRING_KICK can name: its index has eight bits.
        public static let queueLimit = 256

        /// The largest split ring: virtio 1.3 "Split Virtqueues".
        public static let queueSizeLimit = 32768

        /// Virtio features offered. Bit 30 (protocol features) is added.
        public let features: UInt64
        /// Protocol features offered.
        public let protocolFeatures: ProtocolFeatures
        /// Queues of the device.
        public let queueCount: Int
        /// The largest ring accepted, in entries; a power of two.
        public let maxQueueSize: Int
        /// Regions of memory that may be known at once.
        public let maxMemorySlots: Int

        /// An offer. Limits that no back-end can keep are our own bug, and trap.
        public init(
            features: UInt64, protocolFeatures: ProtocolFeatures, queueCount: Int,
            maxQueueSize: Int = Self.queueSizeLimit, maxMemorySlots: Int = Self.memorySlotLimit
        ) {
            precondition((1...Self.queueLimit).contains(queueCount), "queue count out of range")
            precondition((1...Self.queueSizeLimit).contains(maxQueueSize), "queue size out of range")
            precondition(maxMemorySlots > 0, "a device without memory")
            self.features = features | ProtocolFeatures.virtioFeatureBit
            self.protocolFeatures = protocolFeatures
            self.queueCount = queueCount
            self.maxQueueSize = maxQueueSize
            self.maxMemorySlots = maxMemorySlots
        }
    }

    /// What is offered.
    public let configuration: Configuration

    /// The virtio configuration space. After a change on the device's side send `.configurationChanged`.
    public var deviceConfiguration: [UInt8]

    /// Virtio features in force; 0 until SET_FEATURES and after a reset.
    public internal(set) var features: UInt64 = 0

    /// Protocol features in force.
    public internal(set) var protocolFeatures: ProtocolFeatures = []

    /// Whether SET_OWNER was received.
    public internal(set) var hasOwner = false

    /// Whether the front-end gave a channel for requests of the back-end.
    public internal(set) var hasBackendChannel = false

    /// The memory known now, in the order in which it was given.
    public internal(set) var memoryRegions: [MemoryRegion] = []

    /// The virtio device status, if the front-end passes it on.
    public internal(set) var status: UInt8 = 0

    /// The rings, by queue index.
    public internal(set) var queues: [VringState]

    /// A new connection: nothing negotiated, every ring stopped and disabled.
    public init(_ configuration: Configuration, deviceConfiguration: [UInt8]) {
        self.configuration = configuration
        self.deviceConfiguration = deviceConfiguration
        queues = [VringState](repeating: VringState(), count: configuration.queueCount)
    }

    /// Whether every ring is stopped: then neither guest memory nor the front-end may be touched, except to answer.
    /// vhost-user.rst "Suspended device state".
    public var isSuspended: Bool { queues.allSatisfy { !$0.isStarted } }

    /// Whether bit 30 was accepted, so that rings await SET_VRING_ENABLE.
    public var ringsAwaitEnable: Bool { features & ProtocolFeatures.virtioFeatureBit != 0 }

    /// The message that tells the front-end of `notification`, for the back-end's channel.
    ///
    /// - Returns: nil if there is no channel or the front-end did not accept that kind of message.
    public func message(for notification: BackendNotification) -> OutgoingMessage? {
        guard hasBackendChannel, protocolFeatures.contains(notification.requiredProtocolFeature) else { return nil }
        return notification.message()
    }
}
