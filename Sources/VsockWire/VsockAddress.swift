// SPDX-License-Identifier: Apache-2.0
//
// Addresses of vsock(7): a context ID names a machine, a port a socket in it. The vocabulary is swift-nio's.

/// The address of a vsock socket.
public struct VsockAddress: Hashable, Sendable {
    /// The machine.
    public var cid: ContextID
    /// The socket in it.
    public var port: Port

    /// An address.
    public init(cid: ContextID, port: Port) {
        self.cid = cid
        self.port = port
    }

    /// A context ID: 32 bits that name a virtual machine or its host.
    public struct ContextID: RawRepresentable, Hashable, Sendable, ExpressibleByIntegerLiteral {
        /// The number.
        public var rawValue: UInt32
        /// Any number.
        public init(rawValue: UInt32) { self.rawValue = rawValue }
        /// Any number.
        public init(integerLiteral value: UInt32) { rawValue = value }

        /// Any machine, for binding (`VMADDR_CID_ANY`).
        public static let any = ContextID(rawValue: .max)
        /// Reserved (`VMADDR_CID_HYPERVISOR`).
        public static let hypervisor = ContextID(rawValue: 0)
        /// This machine itself (`VMADDR_CID_LOCAL`).
        public static let local = ContextID(rawValue: 1)
        /// The host of this machine (`VMADDR_CID_HOST`).
        public static let host = ContextID(rawValue: 2)

        /// Whether a guest may have it: virtio 1.3 "Socket Device / Device configuration layout" reserves 0, 1, 2
        /// and 0xffffffff.
        public var isGuest: Bool { rawValue > 2 && rawValue != .max }
    }

    /// A port: 32 bits.
    public struct Port: RawRepresentable, Hashable, Sendable, ExpressibleByIntegerLiteral {
        /// The number.
        public var rawValue: UInt32
        /// Any number.
        public init(rawValue: UInt32) { self.rawValue = rawValue }
        /// Any number.
        public init(integerLiteral value: UInt32) { rawValue = value }

        /// Any port, for binding (`VMADDR_PORT_ANY`).
        public static let any = Port(rawValue: .max)
        /// The last port that needs privilege on Linux (`LAST_RESERVED_PORT`).
        public static let lastReserved = Port(rawValue: 1023)
    }
}

extension VsockAddress.ContextID: LosslessStringConvertible {
    /// The number in decimal.
    public var description: String { "\(rawValue)" }
    /// A number in decimal; nil for anything else.
    public init?(_ description: String) {
        guard let number = UInt32(description) else { return nil }
        rawValue = number
    }
}

extension VsockAddress.Port: LosslessStringConvertible {
    /// The number in decimal.
    public var description: String { "\(rawValue)" }
    /// A number in decimal; nil for anything else.
    public init?(_ description: String) {
        guard let number = UInt32(description) else { return nil }
        rawValue = number
    }
}

extension VsockAddress: LosslessStringConvertible {
    /// `cid:port`, as Linux's trace events print it.
    public var description: String { "\(cid):\(port)" }
    /// `cid:port`; nil for anything else.
    public init?(_ description: String) {
        let parts = description.split(separator: ":", omittingEmptySubsequences: false)
        guard parts.count == 2, let cid = ContextID(String(parts[0])), let port = Port(String(parts[1])) else {
            return nil
        }
        self.init(cid: cid, port: port)
    }
}
