// SPDX-License-Identifier: Apache-2.0
//
// The carrier behind a transport, opened with its first socket. The file imports what it needs by name: a type of this
// module is called like the module below.

import Logging
import Synchronization
import VsockCore
import VsockSystem
import VsockTransport
import VsockWire

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
    /// Set before the carrier is made, so that it sees everything.
    private let tap = Mutex<(any PacketTap)?>(nil)

    init(_ kind: VsockTransport.Kind) { self.kind = kind }

    deinit { close() }

    /// Whether there is nothing to open any more.
    var isOpen: Bool {
        switch kind {
        case .uds, .kernel, .loopback: true
        case .driver, .device:
            carrier.withLock { carrier in
                if case .none = carrier { false } else { true }
            }
        }
    }

    func localCID() throws(TransportError) -> VsockAddress.ContextID {
        switch kind {
        case .loopback: return .local
        case .device, .uds: return .host
        case .kernel:
            do throws(SystemCallError) {
                return VsockAddress.ContextID(rawValue: try VsockKernelSocket.localCID())
            } catch {
                throw TransportError("kernel: \(error)")
            }
        case .driver:
            try open()
            return try carrier.withLock { (carrier) throws(TransportError) in
                guard case .driver(let driver) = carrier else { throw TransportError("the transport is closed") }
                return driver.guestCID
            }
        }
    }

    func open() throws(TransportError) {
        try carrier.withLock { (carrier) throws(TransportError) in
            switch carrier {
            case .none: carrier = try make()
            case .closed: throw TransportError("the transport is closed")
            default: break
            }
        }
    }

    func setTap(_ tap: (any PacketTap)?) throws(TransportError) {
        switch kind {
        case .uds: throw TransportError("uds has no packets: they cross in its device (vsock serve --capture)")
        case .kernel: throw TransportError("kernel has no packets: they cross in the kernel (its vsockmon device)")
        default: break
        }
        carrier.withLock { carrier in
            self.tap.withLock { $0 = tap }
            switch carrier {
            case .loopback(let loopback): loopback.setTap(tap)
            case .driver(let driver): driver.setTap(tap)
            case .device(let device): device.setTap(tap)
            case .none, .closed: break
            }
        }
    }

    private func make() throws(TransportError) -> Carrier {
        let tap = tap.withLock { $0 }
        switch kind {
        case .loopback(let mode):
            let loopback = Loopback(seqpacket: mode)
            loopback.setTap(tap)
            return .loopback(loopback)
        case .driver(let path, let mode):
            do throws(VsockDriverError) {
                return .driver(try SocketDriver(path: path, seqpacket: mode, tap: tap))
            } catch {
                throw TransportError("driver:\(path): \(error)")
            }
        case .device(let path, let cid, let mode):
            var configuration = VsockDeviceConfiguration(guestCID: cid, socketPath: path, hybridPath: "")
            configuration.seqpacket = mode
            configuration.tap = tap
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

    func waitForClosed(timeoutNanoseconds: UInt64) {
        switch carrier.withLock({ $0 }) {
        case .loopback(let loopback): loopback.waitForClosed(timeoutNanoseconds: timeoutNanoseconds)
        case .driver(let driver): driver.waitForClosed(timeoutNanoseconds: timeoutNanoseconds)
        case .device(let device): device.waitForClosed(timeoutNanoseconds: timeoutNanoseconds)
        case .none, .closed: break
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
