// SPDX-License-Identifier: Apache-2.0
//
// The requests that a front-end sends: vhost-user.rst "Front-end message types". Codes that this list lacks stay
// representable as `MessageHeader.request`. The layout facts below (least payload, extension, own reply) are what
// the sessions check before they look at a payload.

/// A request of the front-end to the back-end.
public enum FrontendMessageType: UInt32, CaseIterable, Sendable {
    /// VHOST_USER_GET_FEATURES
    case getFeatures = 1
    /// VHOST_USER_SET_FEATURES
    case setFeatures = 2
    /// VHOST_USER_SET_OWNER
    case setOwner = 3
    /// VHOST_USER_RESET_OWNER
    case resetOwner = 4
    /// VHOST_USER_SET_MEM_TABLE
    case setMemoryTable = 5
    /// VHOST_USER_SET_LOG_BASE
    case setLogBase = 6
    /// VHOST_USER_SET_LOG_FD
    case setLogDescriptor = 7
    /// VHOST_USER_SET_VRING_NUM
    case setVringNum = 8
    /// VHOST_USER_SET_VRING_ADDR
    case setVringAddress = 9
    /// VHOST_USER_SET_VRING_BASE
    case setVringBase = 10
    /// VHOST_USER_GET_VRING_BASE
    case getVringBase = 11
    /// VHOST_USER_SET_VRING_KICK
    case setVringKick = 12
    /// VHOST_USER_SET_VRING_CALL
    case setVringCall = 13
    /// VHOST_USER_SET_VRING_ERR
    case setVringError = 14
    /// VHOST_USER_GET_PROTOCOL_FEATURES
    case getProtocolFeatures = 15
    /// VHOST_USER_SET_PROTOCOL_FEATURES
    case setProtocolFeatures = 16
    /// VHOST_USER_GET_QUEUE_NUM
    case getQueueNum = 17
    /// VHOST_USER_SET_VRING_ENABLE
    case setVringEnable = 18
    /// VHOST_USER_SEND_RARP
    case sendRARP = 19
    /// VHOST_USER_NET_SET_MTU
    case setNetworkMTU = 20
    /// VHOST_USER_SET_BACKEND_REQ_FD
    case setBackendRequestDescriptor = 21
    /// VHOST_USER_IOTLB_MSG
    case iotlbMessage = 22
    /// VHOST_USER_SET_VRING_ENDIAN
    case setVringEndian = 23
    /// VHOST_USER_GET_CONFIG
    case getConfig = 24
    /// VHOST_USER_SET_CONFIG
    case setConfig = 25
    /// VHOST_USER_CREATE_CRYPTO_SESSION
    case createCryptoSession = 26
    /// VHOST_USER_CLOSE_CRYPTO_SESSION
    case closeCryptoSession = 27
    /// VHOST_USER_POSTCOPY_ADVISE
    case postcopyAdvise = 28
    /// VHOST_USER_POSTCOPY_LISTEN
    case postcopyListen = 29
    /// VHOST_USER_POSTCOPY_END
    case postcopyEnd = 30
    /// VHOST_USER_GET_INFLIGHT_FD
    case getInflightDescriptor = 31
    /// VHOST_USER_SET_INFLIGHT_FD
    case setInflightDescriptor = 32
    /// VHOST_USER_GPU_SET_SOCKET
    case setGPUSocket = 33
    /// VHOST_USER_RESET_DEVICE
    case resetDevice = 34
    /// VHOST_USER_VRING_KICK
    case vringKick = 35
    /// VHOST_USER_GET_MAX_MEM_SLOTS
    case getMaxMemorySlots = 36
    /// VHOST_USER_ADD_MEM_REG
    case addMemoryRegion = 37
    /// VHOST_USER_REM_MEM_REG
    case removeMemoryRegion = 38
    /// VHOST_USER_SET_STATUS
    case setStatus = 39
    /// VHOST_USER_GET_STATUS
    case getStatus = 40
    /// VHOST_USER_GET_SHARED_OBJECT
    case getSharedObject = 41
    /// VHOST_USER_SET_DEVICE_STATE_FD
    case setDeviceStateDescriptor = 42
    /// VHOST_USER_CHECK_DEVICE_STATE
    case checkDeviceState = 43
    /// VHOST_USER_GET_SHMEM_CONFIG
    case getSharedMemoryConfig = 44
}

extension FrontendMessageType {
    /// The least payload, in bytes, for the message to have its meaning. More is tolerated: User Mode Linux always
    /// sends a memory table of the size for two regions.
    var minimumPayloadByteCount: Int {
        switch self {
        case .setFeatures, .setProtocolFeatures, .setVringKick, .setVringCall, .setVringError, .setStatus: 8
        case .setVringNum, .setVringBase, .getVringBase, .setVringEnable, .vringKick: 8
        case .setMemoryTable: 8
        case .setVringAddress: VringAddress.encodedByteCount
        case .addMemoryRegion, .removeMemoryRegion: 8 + MemoryRegion.encodedByteCount
        case .getConfig, .setConfig: ConfigurationAccess.headerByteCount
        case .setLogBase: LogArea.encodedByteCount
        case .getInflightDescriptor, .setInflightDescriptor: InflightArea.minimumByteCount
        default: 0
        }
    }

    /// The protocol feature that the request belongs to; empty for the base protocol. GET_QUEUE_NUM belongs to MQ but
    /// is always answered, because front-ends ask for it without.
    var requiredProtocolFeature: ProtocolFeatures {
        switch self {
        case .setLogBase, .setLogDescriptor: .logSharedMemory
        case .setBackendRequestDescriptor: .backendRequests
        case .getConfig, .setConfig: .config
        case .getInflightDescriptor, .setInflightDescriptor: .inflightSharedMemory
        case .resetDevice: .resetDevice
        case .vringKick: .inbandNotifications
        case .getMaxMemorySlots, .addMemoryRegion, .removeMemoryRegion: .configureMemorySlots
        case .setStatus, .getStatus: .status
        default: []
        }
    }

    /// Whether the request is answered in its own form, so that need_reply changes nothing: vhost-user.rst
    /// "VHOST_USER_PROTOCOL_F_REPLY_ACK".
    public var hasOwnReply: Bool {
        switch self {
        case .getFeatures, .getProtocolFeatures, .getQueueNum, .getVringBase, .getConfig, .getStatus,
            .getMaxMemorySlots, .setLogBase, .iotlbMessage, .createCryptoSession, .postcopyAdvise, .postcopyEnd,
            .getInflightDescriptor, .getSharedObject, .setDeviceStateDescriptor, .checkDeviceState,
            .getSharedMemoryConfig:
            true
        default: false
        }
    }
}
