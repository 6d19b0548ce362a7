// SPDX-License-Identifier: Apache-2.0
//
// What a front-end asks for, and the message it becomes: vhost-user.rst "Front-end message types". Only the requests
// that a socket device knows.

/// A request of the front-end. Where descriptors belong to it, the case says which, and in which order.
public enum FrontendRequest: Equatable, Sendable {
    /// The virtio features offered; bit 30 says that protocol features exist.
    case getFeatures
    /// Accepts these virtio features. Without bit 30 all rings are enabled at once.
    case setFeatures(UInt64)
    /// The protocol features offered.
    case getProtocolFeatures
    /// Accepts these protocol features.
    case setProtocolFeatures(ProtocolFeatures)
    /// Begins the session.
    case setOwner
    /// Disables all rings (deprecated).
    case resetOwner
    /// How many queues the back-end has.
    case getQueueCount
    /// How many regions of memory the back-end takes.
    case getMaxMemorySlots
    /// Replaces the memory; the mapped file of each region, in order. At most `MemoryRegion.tableLimit` regions.
    case setMemoryTable([MemoryRegion])
    /// The mapped file.
    case addMemoryRegion(MemoryRegion)
    /// Takes a region back; its mmap offset is ignored.
    case removeMemoryRegion(MemoryRegion)
    /// Entries of the ring, a power of two.
    case setQueueSize(queue: Int, size: Int)
    /// Where the ring lies.
    case setQueueAddresses(queue: Int, VringAddress)
    /// The index of the available ring to begin at.
    case setQueueBase(queue: Int, UInt16)
    /// Stops the ring.
    case getQueueBase(queue: Int)
    /// The descriptor that the back-end waits on, if there is one.
    case setKick(queue: Int, hasDescriptor: Bool)
    /// The descriptor that the back-end signals, if there is one.
    case setCall(queue: Int, hasDescriptor: Bool)
    /// The descriptor that the back-end signals when the ring is broken, if there is one.
    case setError(queue: Int, hasDescriptor: Bool)
    /// Whether processing of the ring has effects.
    case setQueueEnabled(queue: Int, Bool)
    /// In-band kick.
    case kick(queue: Int)
    /// The socket on which the back-end may send requests.
    case setBackendChannel
    /// Reads the configuration space, at most 4084 bytes.
    case getConfiguration(offset: Int, byteCount: Int)
    /// Writes to the configuration space.
    case setConfiguration(offset: Int, bytes: [UInt8], isMigration: Bool)
    /// Asks for memory in which the back-end can record what is in flight; of the area only the counts have a meaning.
    case getInflight(InflightArea)
    /// Gives the back-end that memory; its file.
    case setInflight(InflightArea)
    /// The virtio device status.
    case getStatus
    /// Passes the virtio device status on; zero resets.
    case setStatus(UInt8)
    /// Resets the device.
    case resetDevice
}

extension FrontendRequest {
    /// The request's code.
    public var type: FrontendMessageType {
        switch self {
        case .getFeatures: .getFeatures
        case .setFeatures: .setFeatures
        case .getProtocolFeatures: .getProtocolFeatures
        case .setProtocolFeatures: .setProtocolFeatures
        case .setOwner: .setOwner
        case .resetOwner: .resetOwner
        case .getQueueCount: .getQueueNum
        case .getMaxMemorySlots: .getMaxMemorySlots
        case .setMemoryTable: .setMemoryTable
        case .addMemoryRegion: .addMemoryRegion
        case .removeMemoryRegion: .removeMemoryRegion
        case .setQueueSize: .setVringNum
        case .setQueueAddresses: .setVringAddress
        case .setQueueBase: .setVringBase
        case .getQueueBase: .getVringBase
        case .setKick: .setVringKick
        case .setCall: .setVringCall
        case .setError: .setVringError
        case .setQueueEnabled: .setVringEnable
        case .kick: .vringKick
        case .setBackendChannel: .setBackendRequestDescriptor
        case .getConfiguration: .getConfig
        case .setConfiguration: .setConfig
        case .getInflight: .getInflightDescriptor
        case .setInflight: .setInflightDescriptor
        case .getStatus: .getStatus
        case .setStatus: .setStatus
        case .resetDevice: .resetDevice
        }
    }

    /// Descriptors to send along.
    public var descriptorCount: Int {
        switch self {
        case .setMemoryTable(let regions): regions.count
        case .addMemoryRegion, .setBackendChannel, .setInflight: 1
        case .setKick(_, let hasDescriptor), .setCall(_, let hasDescriptor), .setError(_, let hasDescriptor):
            hasDescriptor ? 1 : 0
        default: 0
        }
    }

    /// The message. `needsReply` counts only with REPLY_ACK; `FrontendSession.send` sees to that.
    public func message(needsReply: Bool = false) -> OutgoingMessage {
        OutgoingMessage(
            request: type.rawValue, needsReply: needsReply, payload: payload, descriptorCount: descriptorCount)
    }

    private var payload: [UInt8] {
        var bytes: [UInt8] = []
        switch self {
        case .getFeatures, .getProtocolFeatures, .setOwner, .resetOwner, .getQueueCount, .getMaxMemorySlots,
            .setBackendChannel, .getStatus, .resetDevice:
            break
        case .setFeatures(let features): bytes.appendLittleEndian(features)
        case .setProtocolFeatures(let features): bytes.appendLittleEndian(features.rawValue)
        case .setStatus(let status): bytes.appendLittleEndian(UInt64(status))
        case .setMemoryTable(let regions):
            precondition(regions.count <= MemoryRegion.tableLimit, "more regions than a message holds")
            bytes.appendLittleEndian(UInt32(regions.count))
            bytes.appendLittleEndian(UInt32(0))
            for region in regions { region.emit(to: &bytes) }
        case .addMemoryRegion(let region), .removeMemoryRegion(let region):
            bytes.appendLittleEndian(UInt64(0))
            region.emit(to: &bytes)
        case .getInflight(let area), .setInflight(let area): area.emit(to: &bytes)
        case .setQueueSize(let queue, let size): bytes.appendVringState(queue, UInt32(size))
        case .setQueueBase(let queue, let base): bytes.appendVringState(queue, UInt32(base))
        case .setQueueEnabled(let queue, let isEnabled): bytes.appendVringState(queue, isEnabled ? 1 : 0)
        case .getQueueBase(let queue), .kick(let queue): bytes.appendVringState(queue, 0)
        case .setQueueAddresses(let queue, let addresses): addresses.emit(queue: queue, to: &bytes)
        case .setKick(let queue, let hasDescriptor), .setCall(let queue, let hasDescriptor),
            .setError(let queue, let hasDescriptor):
            bytes.appendLittleEndian(UInt64(queue) | (hasDescriptor ? 0 : 1 << 8))
        case .getConfiguration(let offset, let byteCount):
            ConfigurationAccess(offset: UInt32(offset), byteCount: UInt32(byteCount)).emit(to: &bytes)
            // The request has the size of its reply: vhost-user.rst "VHOST_USER_GET_CONFIG".
            bytes.append(contentsOf: repeatElement(0, count: byteCount))
        case .setConfiguration(let offset, let content, let isMigration):
            let flags = isMigration ? ConfigurationAccess.migrationFlag : 0
            ConfigurationAccess(offset: UInt32(offset), byteCount: UInt32(content.count), flags: flags)
                .emit(to: &bytes)
            bytes.append(contentsOf: content)
        }
        return bytes
    }
}

extension [UInt8] {
    /// vhost-user.rst "A vring state description".
    fileprivate mutating func appendVringState(_ queue: Int, _ number: UInt32) {
        appendLittleEndian(UInt32(queue))
        appendLittleEndian(number)
    }
}
