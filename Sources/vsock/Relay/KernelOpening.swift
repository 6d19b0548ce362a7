// SPDX-License-Identifier: Apache-2.0
//
// Connections by AF_VSOCK of the running kernel, vsock(7).

import VsockSystem
import VsockWire

/// Sockets of the kernel.
struct KernelOpening {
    let type: UnixSocketType
    /// The receive buffer, which is the credit of the peer and bounds its records; since Linux 6.12.92 ours too.
    let bufferByteCount: UInt64

    /// The kernel's own default.
    static let defaultBufferByteCount: UInt64 = 256 << 10

    // MARK: Connect

    /// Connects to a port of a machine.
    func connect(_ cid: VsockAddress.ContextID, port: UInt32, timeoutNanoseconds: UInt64) throws -> RelaySocket {
        let address = VsockKernelAddress(cid: cid.rawValue, port: port)
        do throws(SystemCallError) {
            let descriptor = try make()
            let raw = descriptor.rawValue
            try VsockKernelSocket.setConnectTimeout(raw, nanoseconds: timeoutNanoseconds)
            if try !VsockKernelSocket.connect(raw, to: address) {
                // The kernel's own time limit ends it.
                _ = try DescriptorIO.waitUntilReady(raw, for: .writable, timeoutNanoseconds: nil)
                if let errno = try SocketOptions.takeError(raw) {
                    throw SystemCallError(call: "connect", errno: errno, path: address.description)
                }
            }
            return try RelaySocket(descriptor, .kernel, type: type, peer: address.description)
        } catch {
            throw Failure("\(error): \(connectRemedy(error.errno, address))")
        }
    }

    private func connectRemedy(_ errno: Errno, _ address: VsockKernelAddress) -> String {
        switch errno {
        case .connectionReset, .connectionRefused: "is a program listening on port \(address.port) there?"
        case .timedOut: "is CID \(address.cid) running? --connect-timeout waits longer"
        case .noSuchDevice:
            "no vsock device of this kernel reaches CID \(address.cid); a VM of vsock serve is reached with "
                + "--transport uds:PATH"
        default: socketRemedy(errno)
        }
    }

    // MARK: Listen

    /// Listens on a port of this machine.
    func listen(port: UInt32) throws -> any ConnectionListener {
        let address = VsockKernelAddress(cid: VsockAddress.ContextID.any.rawValue, port: port)
        do throws(SystemCallError) {
            let descriptor = try make()
            try VsockKernelSocket.bind(descriptor.rawValue, to: address)
            try VsockKernelSocket.listen(descriptor.rawValue, backlog: Self.backlog)
            return Listener(opening: self, port: port, descriptor: SharedFileDescriptor(descriptor))
        } catch {
            let remedy =
                switch error.errno {
                case .addressInUse: "another program has port \(port); choose another port"
                case .permissionDenied: "ports below 1024 need privilege; choose another port"
                default: socketRemedy(error.errno)
                }
            throw Failure("\(error): \(remedy)")
        }
    }

    /// SOMAXCONN of vsock(7)'s examples: one connection is served at a time, the others wait.
    private static let backlog = 128

    private struct Listener: ConnectionListener {
        let opening: KernelOpening
        let port: UInt32
        let descriptor: SharedFileDescriptor

        var rawDescriptor: Int32 { descriptor.rawValue }
        var address: String { "vsock port \(port)" }

        func accept() throws -> RelaySocket? {
            // Sockets inherit the listener's buffer.
            guard let connection = try VsockKernelSocket.accept(descriptor.rawValue) else { return nil }
            let peer = try? VsockKernelSocket.peerAddress(connection.rawValue)
            return try RelaySocket(
                connection, .kernel, type: opening.type, peer: peer?.description ?? "the peer of port \(port)")
        }
    }

    // MARK: Both

    private func make() throws(SystemCallError) -> OwnedFileDescriptor {
        let descriptor = try VsockKernelSocket.make(type: type.rawValue, nonBlocking: true)
        let raw = descriptor.rawValue
        if bufferByteCount > Self.defaultBufferByteCount {
            try VsockKernelSocket.setBuffer(raw, .maximumSize, byteCount: bufferByteCount)
        }
        try VsockKernelSocket.setBuffer(raw, .size, byteCount: bufferByteCount)
        return descriptor
    }

    private func socketRemedy(_ errno: Errno) -> String {
        switch errno {
        case .addressFamilyNotSupported:
            "this kernel has no vsock; modprobe vsock, or give --transport uds:PATH"
        case .socketTypeNotSupported:
            "the vsock transport of this kernel has no SOCK_SEQPACKET (Linux 5.14, and a device that offers it)"
        default: "see vsock(7), or give --transport uds:PATH"
        }
    }
}
