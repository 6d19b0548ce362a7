// SPDX-License-Identifier: Apache-2.0
//
// The bits of GET/SET_PROTOCOL_FEATURES: vhost-user.rst "Protocol features". They are negotiated apart from the
// virtio features, and only if virtio bit 30 is offered.

/// A set of VHOST_USER_PROTOCOL_F bits.
public struct ProtocolFeatures: OptionSet, Hashable, Sendable {
    /// Bit 30 of the *virtio* features, VHOST_USER_F_PROTOCOL_FEATURES: the protocol features exist.
    public static let virtioFeatureBit: UInt64 = 1 << 30

    /// The bits as they stand on the wire.
    public let rawValue: UInt64

    /// The set of these bits, known or not.
    public init(rawValue: UInt64) { self.rawValue = rawValue }

    /// MQ: GET_QUEUE_NUM.
    public static let multipleQueues = Self(rawValue: 1 << 0)
    /// LOG_SHMFD: the log of dirty pages is a shared memory descriptor.
    public static let logSharedMemory = Self(rawValue: 1 << 1)
    /// RARP: SEND_RARP, of network devices.
    public static let rarp = Self(rawValue: 1 << 2)
    /// REPLY_ACK: need_reply asks for an acknowledgement of any request.
    public static let replyAck = Self(rawValue: 1 << 3)
    /// MTU: NET_SET_MTU, of network devices.
    public static let mtu = Self(rawValue: 1 << 4)
    /// BACKEND_REQ: a channel for requests of the back-end.
    public static let backendRequests = Self(rawValue: 1 << 5)
    /// CROSS_ENDIAN: SET_VRING_ENDIAN, of legacy devices.
    public static let crossEndian = Self(rawValue: 1 << 6)
    /// CRYPTO_SESSION: of crypto devices.
    public static let cryptoSession = Self(rawValue: 1 << 7)
    /// PAGEFAULT: postcopy migration.
    public static let pageFault = Self(rawValue: 1 << 8)
    /// CONFIG: GET_CONFIG and SET_CONFIG. QEMU refuses a vsock device without it.
    public static let config = Self(rawValue: 1 << 9)
    /// BACKEND_SEND_FD: requests of the back-end may carry descriptors.
    public static let backendSendsDescriptors = Self(rawValue: 1 << 10)
    /// HOST_NOTIFIER: queue notifications by a mapped page.
    public static let hostNotifier = Self(rawValue: 1 << 11)
    /// INFLIGHT_SHMFD: tracking of buffers in flight, for reconnection.
    public static let inflightSharedMemory = Self(rawValue: 1 << 12)
    /// RESET_DEVICE: the request of that name.
    public static let resetDevice = Self(rawValue: 1 << 13)
    /// INBAND_NOTIFICATIONS: kicks and calls as messages.
    public static let inbandNotifications = Self(rawValue: 1 << 14)
    /// CONFIGURE_MEM_SLOTS: memory regions added and removed one by one.
    public static let configureMemorySlots = Self(rawValue: 1 << 15)
    /// STATUS: the virtio device status is passed on.
    public static let status = Self(rawValue: 1 << 16)
    /// XEN_MMAP: memory regions have two more fields.
    public static let xenMmap = Self(rawValue: 1 << 17)
    /// SHARED_OBJECT: dma-buf sharing between back-ends.
    public static let sharedObject = Self(rawValue: 1 << 18)
    /// DEVICE_STATE: the back-end's state moves with a migration.
    public static let deviceState = Self(rawValue: 1 << 19)
    /// GET_VRING_BASE_INFLIGHT: GET_VRING_BASE need not wait for buffers in flight.
    public static let getVringBaseInflight = Self(rawValue: 1 << 20)
    /// GPA_ADDRESSES: ring addresses are guest physical ones.
    public static let guestPhysicalAddresses = Self(rawValue: 1 << 21)
    /// SHMEM: virtio shared memory regions.
    public static let sharedMemoryRegions = Self(rawValue: 1 << 22)
}
