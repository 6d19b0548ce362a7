// SPDX-License-Identifier: Apache-2.0
//
// The `flags` of a SHUTDOWN packet: virtio 1.3 "Socket Device / Connection Establishment and Termination".

/// Which directions the sender of a SHUTDOWN gives up. Cumulative and permanent.
public struct ShutdownFlags: OptionSet, Hashable, Sendable {
    /// The value on the wire.
    public let rawValue: UInt32

    /// Any bits; unknown ones are ignored by receivers.
    @inlinable public init(rawValue: UInt32) { self.rawValue = rawValue }

    /// The sender will receive no more (`VIRTIO_VSOCK_SHUTDOWN_F_RECEIVE`).
    @inlinable public static var receive: ShutdownFlags { ShutdownFlags(rawValue: 1) }
    /// The sender will send no more (`VIRTIO_VSOCK_SHUTDOWN_F_SEND`).
    @inlinable public static var send: ShutdownFlags { ShutdownFlags(rawValue: 2) }
    /// Both directions.
    @inlinable public static var both: ShutdownFlags { [.receive, .send] }
}
