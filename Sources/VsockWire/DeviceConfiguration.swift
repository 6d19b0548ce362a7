// SPDX-License-Identifier: Apache-2.0
//
// virtio 1.3 "Socket Device / Device configuration layout" and "Device Events"; the device ID is in "Device Types".

/// The configuration space of a socket device: the guest's context ID, 64 bits of which the upper 32 are zero.
public struct DeviceConfiguration: Equatable, Sendable {
    /// Bytes of the configuration space.
    public static let byteCount = 8
    /// Virtio device ID of a socket device.
    public static let deviceID: UInt32 = 19

    /// The guest's context ID.
    public var guestCID: VsockAddress.ContextID

    /// A configuration.
    public init(guestCID: VsockAddress.ContextID) { self.guestCID = guestCID }

    /// Reads the configuration space; nil when it is short or the reserved bits are set.
    public init?(_ bytes: UnsafeRawBufferPointer) {
        guard bytes.count >= Self.byteCount, let base = bytes.baseAddress else { return nil }
        guard let cid = UInt32(exactly: loadLittleEndian(base, 0, as: UInt64.self)) else { return nil }
        guestCID = VsockAddress.ContextID(rawValue: cid)
    }

    /// The bytes of the configuration space.
    public var bytes: [UInt8] {
        withUnsafeBytes(of: UInt64(guestCID.rawValue).littleEndian) { Array($0) }
    }
}

/// What a device reports on its event queue: one little-endian 32-bit identifier.
public enum DeviceEvent: UInt32, Sendable {
    /// All connections are gone, the context ID may have changed (`VIRTIO_VSOCK_EVENT_TRANSPORT_RESET`).
    case transportReset = 0

    /// Bytes of an event.
    public static let byteCount = 4

    /// The event in a buffer; nil when the buffer is short or the identifier unknown.
    public init?(_ bytes: UnsafeRawBufferPointer) {
        guard bytes.count >= Self.byteCount, let base = bytes.baseAddress else { return nil }
        self.init(rawValue: loadLittleEndian(base, 0, as: UInt32.self))
    }

    /// Writes the 4 bytes; `bytes` must hold at least that many.
    public func write(to bytes: UnsafeMutableRawBufferPointer) {
        precondition(bytes.count >= Self.byteCount, "an event needs 4 bytes")
        guard let base = bytes.baseAddress else { return }
        storeLittleEndian(rawValue, base, 0)
    }
}
