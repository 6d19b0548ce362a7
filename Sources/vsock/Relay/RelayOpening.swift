// SPDX-License-Identifier: Apache-2.0
//
// How a connection comes about, over any transport, and what to do when none does: a line that names the peer and the
// remedy.

import Vsock
import VsockCore
import VsockSystem
import VsockTransport
import VsockWire

/// Makes connections for a relay.
struct RelayOpening {
    let transport: VsockTransport
    let type: SocketType
    /// SO_VM_SOCKETS_BUFFER_SIZE; nil leaves it.
    let bufferByteCount: UInt32?

    /// SOMAXCONN of vsock(7)'s examples: one connection is served at a time, the others wait.
    private static let backlog = 128

    // MARK: Connect

    /// Connects to a port.
    func connect(to address: VsockAddress, timeoutSeconds: UInt32) throws -> RelaySocket {
        let peer = peerName(address)
        let socket = try makeSocket()
        do throws(SocketError) {
            try socket.set(.connectTimeout(.seconds(timeoutSeconds)))
            try socket.connect(to: address)
        } catch {
            socket.close()
            throw Failure(connectLine(error, address, peer, timeoutSeconds))
        }
        return RelaySocket(socket: socket, transport: transport, peer: peer)
    }

    private func peerName(_ address: VsockAddress) -> String {
        guard case .uds(let path) = transport.kind else { return "vsock:\(address)" }
        return "port \(address.port.rawValue) at \(clientPath(path))"
    }

    private func clientPath(_ path: String) -> String { type == .stream ? path : path + "_seqpacket" }

    private func connectLine(
        _ error: SocketError, _ address: VsockAddress, _ peer: String, _ timeoutSeconds: UInt32
    ) -> String {
        if case .uds(let path) = transport.kind { return hybridLine(error, path, peer, timeoutSeconds) }
        let cid = address.cid.rawValue
        let remedy =
            switch error {
            case .connectionReset: connectRefusedRemedy(address)
            case .timedOut: timeoutRemedy(cid)
            case .noDevice: unreachedRemedy(cid)
            default: remedy(error)
            }
        return "connect \(peer): \(text(error)): \(remedy)"
    }

    private func connectRefusedRemedy(_ address: VsockAddress) -> String {
        guard case .loopback = transport.kind else {
            return "is a program listening on port \(address.port.rawValue) there?"
        }
        return "a loopback is within one process, and this one listens nowhere; try vsock test or vsock demo"
    }

    private func timeoutRemedy(_ cid: UInt32) -> String {
        guard case .device(let path, _, _) = transport.kind else {
            return "is CID \(cid) running? --connect-timeout waits longer"
        }
        return "has a VM connected to \(path), and is its driver running? --connect-timeout waits longer"
    }

    private func unreachedRemedy(_ cid: UInt32) -> String {
        switch transport.kind {
        case .kernel:
            "no vsock device of this kernel reaches CID \(cid); a VM of vsock serve is reached with "
                + "--transport uds:PATH"
        case .device(_, let guest, _): "\(transport) reaches its guest, CID \(guest), and nobody else"
        case .loopback: "a loopback reaches CID 1, this process, and nobody else"
        case .driver, .uds: "\(transport) does not reach CID \(cid), or the device has gone"
        }
    }

    private func hybridLine(
        _ error: SocketError, _ path: String, _ peer: String, _ timeoutSeconds: UInt32
    ) -> String {
        let target = clientPath(path)
        let device = "vsock serve --uds-path \(path)"
        switch (error, Errno(rawValue: error.errno)) {
        case (.connectionReset, _):
            return "\(peer) refused the connection: is a program listening on it in the guest?"
        case (.timedOut, _):
            return "no answer from \(target) within \(timeoutSeconds) s: is the guest running? "
                + "--connect-timeout waits longer"
        case (.protocolError, _):
            return "\(target) gave an unknown answer: is it a hybrid vsock socket?"
        case (.noDevice, _):
            return "connect \(target): no device is there: is it running (\(device))?"
        case (.socketTypeNotSupported, _):
            return type == .seqpacket
                ? "connect \(target): the device has no such socket: does it offer SOCK_SEQPACKET (\(device))?"
                : "connect \(target): that socket is of the other type; give the path without _seqpacket"
        case (_, .permissionDenied):
            return "connect \(target): \(text(error)): run as the user of the device, or give access to the socket"
        default:
            return "connect \(target): \(text(error)): --transport uds:PATH is the device's --uds-path"
        }
    }

    // MARK: Listen

    /// Listens on a port.
    func listen(port: UInt32) throws -> RelayListener {
        let socket = try makeSocket()
        let name = listenerName(port)
        do throws(SocketError) {
            try socket.bind(to: VsockAddress(cid: .any, port: VsockAddress.Port(rawValue: port)))
            try socket.listen(backlog: Self.backlog)
        } catch {
            socket.close()
            throw Failure("listen on \(name): \(text(error)): \(listenRemedy(error, port))")
        }
        return RelayListener(socket: socket, transport: transport, name: name)
    }

    private func listenerName(_ port: UInt32) -> String {
        switch transport.kind {
        case .kernel: "vsock port \(port)"
        case .uds(let path): "\(path)_\(port)"
        default: "port \(port) of \(transport)"
        }
    }

    private func listenRemedy(_ error: SocketError, _ port: UInt32) -> String {
        guard case .uds = transport.kind else {
            return switch error {
            case .addressInUse: "another program has port \(port); choose another port"
            case .accessDenied: "ports below 1024 need privilege; choose another port"
            default: remedy(error)
            }
        }
        return switch Errno(rawValue: error.errno) {
        case .noSuchFile: "there is no such directory; give the device's --uds-path"
        case .permissionDenied: "run as the user of the device"
        case .addressInUse: "another program has port \(port); choose another port"
        case .nameTooLong: "the path of a Unix socket has at most \(UnixAddress.maximumPathByteCount) bytes"
        default: "--transport uds:PATH is the device's --uds-path"
        }
    }

    // MARK: Both

    private func makeSocket() throws -> any ConnectibleSocket {
        do {
            let socket = try transport.makeSocket(type)
            guard let bufferByteCount else { return socket }
            let size = UInt64(bufferByteCount)
            if size > socket.settings.bufferMaximumSize, !transport.isHybrid {
                try socket.set(.bufferMaximumSize(size))
            }
            try socket.set(.bufferSize(size))
            return socket
        } catch let error as SocketError {
            throw Failure("AF_VSOCK: \(text(error)): \(remedy(error))")
        } catch let error as TransportError {
            throw Failure(error.description)
        }
    }

    private func remedy(_ error: SocketError) -> String {
        switch (transport.kind, Errno(rawValue: error.errno)) {
        case (.kernel, .addressFamilyNotSupported):
            "this kernel has no vsock; modprobe vsock, or give --transport uds:PATH"
        case (.kernel, .socketTypeNotSupported):
            "the vsock transport of this kernel has no SOCK_SEQPACKET (Linux 5.14, and a device that offers it)"
        case (_, .socketTypeNotSupported): "the other side offers no SOCK_SEQPACKET, or seqpacket=off is set"
        default: "see vsock(7)"
        }
    }

    private func text(_ error: SocketError) -> String { Errno(rawValue: error.errno).description }
}

/// Where a relay waits for connections.
struct RelayListener {
    let socket: any ConnectibleSocket
    let transport: VsockTransport
    /// Where it listens, for a user.
    let name: String

    /// Waits for a connection.
    func accept() throws -> RelaySocket {
        do throws(SocketError) {
            let connection = try socket.accept()
            return RelaySocket(socket: connection, transport: transport, peer: peerName(connection))
        } catch {
            throw Failure("\(name) takes no more connections: \(Errno(rawValue: error.errno)): is the other side gone?")
        }
    }

    private func peerName(_ connection: any ConnectibleSocket) -> String {
        if transport.isHybrid { return "the guest at \(name)" }
        return connection.peerAddress.map { "vsock:\($0)" } ?? "the peer of \(name)"
    }

    /// Listens no more; whoever comes now is refused.
    func close() { socket.close() }
}

extension VsockTransport {
    /// Whether its sockets are Unix sockets of a device.
    var isHybrid: Bool {
        if case .uds = kind { true } else { false }
    }
}
