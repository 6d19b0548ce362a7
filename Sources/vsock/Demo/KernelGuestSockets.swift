// SPDX-License-Identifier: Apache-2.0

import VsockSystem
import VsockWire

/// AF_VSOCK of the running kernel.
final class KernelGuestSockets: DemoGuestSockets {
    private var listeners: [UInt32: OwnedFileDescriptorBox] = [:]

    /// Keeps a descriptor in a dictionary.
    final class OwnedFileDescriptorBox {
        let descriptor: OwnedFileDescriptor
        init(_ descriptor: consuming OwnedFileDescriptor) { self.descriptor = descriptor }
    }

    func listen(_ type: SocketType, port: UInt32) throws {
        let socket = try make(type, nonBlocking: false)
        try VsockKernelSocket.bind(
            socket.rawValue, to: VsockKernelAddress(cid: VsockAddress.ContextID.any.rawValue, port: port))
        try VsockKernelSocket.listen(socket.rawValue, backlog: 8)
        listeners[port] = OwnedFileDescriptorBox(socket)
    }

    func accept(port: UInt32) throws -> SharedFileDescriptor {
        guard let listener = listeners[port],
            let socket = try VsockKernelSocket.accept(listener.descriptor.rawValue)
        else { throw Failure("nobody connects to port \(port)") }
        try DescriptorIO.setNonBlocking(socket.rawValue, false)
        return SharedFileDescriptor(socket)
    }

    func connect(_ type: SocketType, port: UInt32) throws -> SharedFileDescriptor {
        let socket = try make(type, nonBlocking: false)
        _ = try VsockKernelSocket.connect(
            socket.rawValue, to: VsockKernelAddress(cid: VsockAddress.ContextID.host.rawValue, port: port))
        return SharedFileDescriptor(socket)
    }

    func send(_ bytes: [UInt8], to socket: SharedFileDescriptor) throws {
        var rest = bytes[...]
        while !rest.isEmpty {
            switch rest.withUnsafeBytes({ DescriptorIO.send(socket.rawValue, from: $0) }) {
            case .count(let count): rest = rest.dropFirst(count)
            case .wouldBlock: throw Failure("the guest's socket does not block")
            case .failed(let errno): throw Failure("the guest cannot send: \(errno)")
            }
        }
    }

    func receive(_ socket: SharedFileDescriptor) throws -> [UInt8]? {
        var received: [UInt8]?
        try withUnsafeTemporaryAllocation(byteCount: 512 * 1024, alignment: 16) { buffer in
            switch DescriptorIO.receive(socket.rawValue, into: buffer) {
            case .count(0): received = nil
            case .count(let count): received = Array(buffer[..<count])
            case .wouldBlock: throw Failure("the guest's socket does not block")
            case .failed(let errno): throw Failure("the guest cannot receive: \(errno)")
            }
        }
        return received
    }

    func finishSending(_ socket: SharedFileDescriptor) throws {
        try SocketOptions.shutdown(socket.rawValue, .send)
    }

    func close(_ socket: SharedFileDescriptor) throws { try SocketOptions.shutdown(socket.rawValue, .both) }

    private func make(_ type: SocketType, nonBlocking: Bool) throws -> OwnedFileDescriptor {
        let unix: UnixSocketType = type == .stream ? .stream : .seqpacket
        return try VsockKernelSocket.make(type: unix.rawValue, nonBlocking: nonBlocking)
    }
}
