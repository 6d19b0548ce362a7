// SPDX-License-Identifier: Apache-2.0
//
// Ways to reach a vsock peer; the grammar that names them is in VsockTransport+Text. The file imports what it needs by
// name: the type here is called like the module below.

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
/// `seqpacket` is one of `auto`, `standard`, `rfc-v5`, `off`; in keys, `-` and `_` are the same. SOCKET has no comma.
public struct VsockTransport: Sendable, CustomStringConvertible {
    package enum Kind: Hashable, Sendable {
        case loopback(SeqpacketMode)
        case driver(String, SeqpacketMode)
        case device(String, UInt32, SeqpacketMode)
        case uds(String)
        case kernel
    }

    /// The guest's context ID of a device that is given none, as in vhost-device-vsock.
    public static let defaultGuestCID: UInt32 = 3

    package let kind: Kind
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

    /// Opens the transport, which the first socket would do: a device's vhost-user socket exists afterwards, and a driver
    /// has spoken with its device. Blocks for that long; again it does nothing.
    /// - Throws: ``TransportError``
    public func open() throws(TransportError) { try instance.open() }

    /// As ``open()``, for tasks.
    nonisolated(nonsending) func openSuspended() async throws(TransportError) {
        guard !instance.isOpen else { return }
        let instance = instance
        let result = await withUnsafeContinuation { (continuation: UnsafeContinuation<Outcome, Never>) in
            do throws(SystemCallError) {
                // Not a task: the driver waits for its device, and tasks share few threads.
                _ = try WorkerThread(name: "vsock-open") {
                    do throws(TransportError) {
                        continuation.resume(returning: .success(try instance.open()))
                    } catch {
                        continuation.resume(returning: .failure(error))
                    }
                }
            } catch {
                continuation.resume(returning: .failure(TransportError("\(self): \(error)")))
            }
        }
        try result.get()
    }

    private typealias Outcome = Result<Void, TransportError>

    /// Lets `tap` see every packet from now on, such as a `PacketCapture`; nil for nobody. Before ``open()`` it sees the
    /// first packet, too.
    /// - Throws: ``TransportError`` where there are no packets in this process: for `uds` and `kernel`.
    public func setTap(_ tap: (any PacketTap)?) throws(TransportError) { try instance.setTap(tap) }

    /// The context ID of this side, IOCTL_VM_SOCKETS_GET_LOCAL_CID: `.local` of a loopback, `.host` of a device and of
    /// `uds`, the guest's of a driver, the machine's of the kernel. Opens a driver, as ``open()``.
    /// - Throws: ``TransportError``, also when the kernel has no vsock.
    public func localCID() throws(TransportError) -> VsockAddress.ContextID { try instance.localCID() }

    /// Ends the transport: the peer's connections are reset, and all its sockets fail. It cannot be opened again.
    public func close() { instance.close() }

    /// Waits until the peers know the end of every connection that was closed, or the time has passed; then ends the
    /// transport. What a program has sent before it exits arrives that way, as it does from the kernel's sockets.
    public func finish(timeoutNanoseconds: UInt64 = EndpointConfiguration.defaultCloseTimeoutNanoseconds) {
        instance.waitForClosed(timeoutNanoseconds: timeoutNanoseconds)
        close()
    }

    /// A socket that is nothing yet: the calls of socket(2), for the tools of this package.
    package func makeSocket(_ type: SocketType) throws -> any ConnectibleSocket { try instance.makeSocket(type) }
}
