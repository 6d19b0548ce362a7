// SPDX-License-Identifier: Apache-2.0
//
// Ways to reach a vsock peer, and the one grammar that names them. The file imports what it needs by name: the type
// here is called like the module below.

import Logging
import Synchronization
import VsockCore
import VsockSystem
import VsockTransport
import VsockWire

/// A way to reach vsock peers.
///
/// A value stands for one instance: copies share it, and its device or driver is opened with the first socket and closed
/// with the last copy, or by ``close()``. So keep the value, rather than making an equal one anew: a second device at
/// the same path finds it taken. Only `loopback` and `kernel` are the same wherever they are written.
///
/// | text | is |
/// |---|---|
/// | `loopback[,seqpacket=…]` | this process, context ID 1 |
/// | `driver:SOCKET[,seqpacket=…]` | the guest of the device that listens on SOCKET |
/// | `device:SOCKET[,guest-cid=N][,seqpacket=…]` | the host of the VM whose monitor connects to SOCKET |
/// | `uds:PATH` | a hybrid-socket device's files, as `vsock serve` makes them |
/// | `kernel` | AF_VSOCK of the running kernel |
///
/// `seqpacket` is one of `auto`, `standard`, `rfc-v5`, `off`.
public struct VsockTransport: Sendable, CustomStringConvertible {
    enum Kind: Hashable, Sendable {
        case loopback(SeqpacketMode)
        case driver(String, SeqpacketMode)
        case device(String, UInt32, SeqpacketMode)
        case uds(String)
        case kernel
    }

    /// The guest's context ID of a device that is given none, as in vhost-device-vsock.
    public static let defaultGuestCID: UInt32 = 3

    let kind: Kind
    private let instance: TransportInstance

    private init(_ kind: Kind, _ instance: TransportInstance? = nil) {
        self.kind = kind
        self.instance = instance ?? TransportInstance(kind)
    }

    private static let sharedLoopbacks = Mutex<[SeqpacketMode: TransportInstance]>([:])

    /// This process, in the standard framing; one for the whole process.
    public static let loopback = loopback(seqpacket: .auto)

    /// AF_VSOCK of the running kernel.
    public static let kernel = VsockTransport(.kernel)

    /// This process; one for the whole process and each mode.
    public static func loopback(seqpacket: SeqpacketMode) -> VsockTransport {
        let instance = sharedLoopbacks.withLock { loopbacks in
            if let known = loopbacks[seqpacket] { return known }
            let instance = TransportInstance(.loopback(seqpacket))
            loopbacks[seqpacket] = instance
            return instance
        }
        return VsockTransport(.loopback(seqpacket), instance)
    }

    /// This process, with ports of its own, for tests.
    public static func isolatedLoopback(seqpacket: SeqpacketMode = .auto) -> VsockTransport {
        VsockTransport(.loopback(seqpacket))
    }

    /// The guest of the device that listens on the vhost-user socket `path`.
    public static func driver(_ path: String, seqpacket: SeqpacketMode = .auto) -> VsockTransport {
        VsockTransport(.driver(path, seqpacket))
    }

    /// The host of the VM whose monitor connects to the vhost-user socket `path`, which is created. Its guest gets
    /// `guestCID`.
    public static func device(
        _ path: String, guestCID: UInt32 = defaultGuestCID, seqpacket: SeqpacketMode = .auto
    ) -> VsockTransport {
        VsockTransport(.device(path, guestCID, seqpacket))
    }

    /// The guest behind a hybrid-socket device: connections go through `path`, listeners are `path_PORT`.
    public static func uds(_ path: String) -> VsockTransport { VsockTransport(.uds(path)) }

    /// The transport that a text names; see the table above.
    /// - Throws: ``TransportError`` with what is wrong and what would be right.
    public init(_ text: String) throws(TransportError) {
        let (name, path, keys) = try Self.split(text)
        func mode() throws(TransportError) -> SeqpacketMode {
            guard let value = keys["seqpacket"] else { return .auto }
            guard let mode = SeqpacketMode(rawValue: value) else {
                throw TransportError("seqpacket=\(value): use auto, standard, rfc-v5 or off")
            }
            return mode
        }
        func check(needsPath: Bool, allows: Set<String>) throws(TransportError) {
            guard path.isEmpty != needsPath else {
                throw TransportError("\(text): " + (needsPath ? "a path must follow \(name):" : "\(name) has no path"))
            }
            if let key = keys.keys.first(where: { !allows.contains($0) }) {
                throw TransportError("\(text): \(name) has no key \(key)")
            }
        }
        switch name {
        case "loopback":
            try check(needsPath: false, allows: ["seqpacket"])
            self = .loopback(seqpacket: try mode())
        case "kernel":
            try check(needsPath: false, allows: [])
            self = .kernel
        case "driver":
            try check(needsPath: true, allows: ["seqpacket"])
            self = .driver(path, seqpacket: try mode())
        case "device":
            try check(needsPath: true, allows: ["seqpacket", "guest-cid"])
            let number = keys["guest-cid"] ?? "\(Self.defaultGuestCID)"
            guard let cid = UInt32(number), VsockAddress.ContextID(rawValue: cid).isGuest else {
                throw TransportError("guest-cid=\(number): use 3 to 4294967294")
            }
            self = .device(path, guestCID: cid, seqpacket: try mode())
        case "uds":
            try check(needsPath: true, allows: [])
            self = .uds(path)
        default:
            throw TransportError("\(text): use kernel, loopback, device:SOCKET, driver:SOCKET or uds:PATH")
        }
    }

    /// The text that names the transport.
    public var description: String {
        func suffix(_ mode: SeqpacketMode) -> String { mode == .auto ? "" : ",seqpacket=\(mode.rawValue)" }
        return switch kind {
        case .loopback(let mode): "loopback" + suffix(mode)
        case .driver(let path, let mode): "driver:\(path)" + suffix(mode)
        case .device(let path, let cid, let mode): "device:\(path),guest-cid=\(cid)" + suffix(mode)
        case .uds(let path): "uds:\(path)"
        case .kernel: "kernel"
        }
    }

    /// Opens the transport, which the first socket would do: a device's vhost-user socket exists afterwards.
    /// - Throws: ``TransportError``
    public func open() throws(TransportError) { try instance.open() }

    /// Ends the transport: the peer's connections are reset, and all its sockets fail. It cannot be opened again.
    public func close() { instance.close() }

    func makeSocket(_ type: SocketType) throws -> any ConnectibleSocket { try instance.makeSocket(type) }

    /// `name`, `:path`, and `,key=value` parts. A path may have commas where no key follows.
    private static func split(
        _ text: String
    ) throws(TransportError) -> (name: String, path: String, keys: [String: String]) {
        var parts = text.split(separator: ",", omittingEmptySubsequences: false).map(String.init)
        var keys: [String: String] = [:]
        while parts.count > 1, let last = parts.last, let equals = last.firstIndex(of: "=") {
            let key = String(last[..<equals]).replacing("_", with: "-")
            guard ["seqpacket", "guest-cid"].contains(key) else { break }
            guard keys.updateValue(String(last[last.index(after: equals)...]), forKey: key) == nil else {
                throw TransportError("\(text): \(key) is given twice")
            }
            parts.removeLast()
        }
        let rest = parts.joined(separator: ",")
        guard let colon = rest.firstIndex(of: ":") else { return (rest, "", keys) }
        return (String(rest[..<colon]), String(rest[rest.index(after: colon)...]), keys)
    }
}

/// What copies of a ``VsockTransport`` share.
final class TransportInstance: Sendable {
    private enum Carrier {
        case none
        case loopback(Loopback)
        case driver(SocketDriver)
        case device(SocketDevice)
        case closed
    }

    private let kind: VsockTransport.Kind
    private let carrier = Mutex<Carrier>(.none)

    init(_ kind: VsockTransport.Kind) { self.kind = kind }

    deinit { close() }

    func open() throws(TransportError) {
        try carrier.withLock { (carrier) throws(TransportError) in
            switch carrier {
            case .none: carrier = try make()
            case .closed: throw TransportError("the transport is closed")
            default: break
            }
        }
    }

    private func make() throws(TransportError) -> Carrier {
        switch kind {
        case .loopback(let mode): return .loopback(Loopback(seqpacket: mode))
        case .driver(let path, let mode):
            do throws(VsockDriverError) {
                return .driver(try SocketDriver(path: path, seqpacket: mode))
            } catch {
                throw TransportError("driver:\(path): \(error)")
            }
        case .device(let path, let cid, let mode):
            var configuration = VsockDeviceConfiguration(guestCID: cid, socketPath: path, hybridPath: "")
            configuration.seqpacket = mode
            do throws(DeviceDaemonError) {
                var log = Logger(label: "vsock.device")
                log.logLevel = .warning
                return .device(try SocketDevice(configuration, log: log))
            } catch {
                throw TransportError("device:\(path): \(error)")
            }
        case .uds, .kernel: return .none
        }
    }

    func makeSocket(_ type: SocketType) throws -> any ConnectibleSocket {
        switch kind {
        case .kernel: return try DescriptorSocket(kernel: type)
        case .uds(let path): return DescriptorSocket(hybrid: type, path: path)
        default: break
        }
        try open()
        return try carrier.withLock { carrier in
            switch carrier {
            case .loopback(let loopback): loopback.makeSocket(type)
            case .driver(let driver): driver.makeSocket(type)
            case .device(let device): device.makeSocket(type)
            case .none, .closed: throw TransportError("the transport is closed")
            }
        }
    }

    func close() {
        let last = carrier.withLock { carrier in
            defer { carrier = .closed }
            return carrier
        }
        switch last {
        case .driver(let driver): driver.stop()
        case .device(let device): device.stop()
        default: break
        }
    }
}
