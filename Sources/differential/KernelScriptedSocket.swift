// SPDX-License-Identifier: Apache-2.0
//
// Scripts on AF_VSOCK of the running kernel, one system call for each call. The kernel is the reference: nothing of what
// this package does stands between.

import VsockCore
import VsockSystem
import VsockTransport
import VsockWire

/// A blocking AF_VSOCK socket.
final class KernelScriptedSocket: ScriptedSocket {
    private let descriptor: SharedFileDescriptor

    init(_ descriptor: consuming OwnedFileDescriptor) { self.descriptor = SharedFileDescriptor(descriptor) }

    private var raw: Int32 { descriptor.rawValue }

    /// Makes a system call and gives its error the name of the sockets'.
    static func call<Value: ~Copyable>(_ body: () throws(SystemCallError) -> Value) throws(SocketError) -> Value {
        do throws(SystemCallError) { return try body() } catch { throw SocketError(errno: error.errno.rawValue) }
    }

    /// The same without waiting, by O_NONBLOCK.
    private func call<Value: ~Copyable>(
        noWait: Bool, _ body: () throws(SystemCallError) -> Value
    ) throws(SocketError) -> Value {
        if noWait { try Self.call { () throws(SystemCallError) in try DescriptorIO.setNonBlocking(raw) } }
        defer { if noWait { try? DescriptorIO.setNonBlocking(raw, false) } }
        return try Self.call(body)
    }

    private static func kernelAddress(_ address: VsockAddress) -> VsockKernelAddress {
        VsockKernelAddress(cid: address.cid.rawValue, port: address.port.rawValue)
    }

    private static func address(_ address: VsockKernelAddress) -> VsockAddress {
        VsockAddress(cid: .init(rawValue: address.cid), port: .init(rawValue: address.port))
    }

    func bind(to address: VsockAddress) throws(SocketError) {
        try Self.call { () throws(SystemCallError) in
            try VsockKernelSocket.bind(raw, to: Self.kernelAddress(address))
        }
    }

    func listen(backlog: Int) throws(SocketError) {
        try Self.call { () throws(SystemCallError) in try VsockKernelSocket.listen(raw, backlog: backlog) }
    }

    func connect(to address: VsockAddress, noWait: Bool) throws(SocketError) {
        let isDone = try call(noWait: noWait) { () throws(SystemCallError) in
            try VsockKernelSocket.connect(raw, to: Self.kernelAddress(address))
        }
        guard isDone else { throw .inProgress }
    }

    func accept(noWait: Bool) throws(SocketError) -> any ScriptedSocket {
        let accepted = try call(noWait: noWait) { () throws(SystemCallError) in try VsockKernelSocket.accept(raw) }
        guard let accepted else { throw .wouldBlock }
        let rawAccepted = accepted.rawValue
        try Self.call { () throws(SystemCallError) in try DescriptorIO.setNonBlocking(rawAccepted, false) }
        return KernelScriptedSocket(accepted)
    }

    func send(_ bytes: [UInt8], noWait: Bool, endOfRecord: Bool) throws(SocketError) -> Int {
        var flags: MessageFlags = []
        if noWait { flags.insert(.doNotWait) }
        if endOfRecord { flags.insert(.endOfRecord) }
        switch bytes.withUnsafeBytes({ DescriptorIO.send(raw, from: $0, flags: flags) }) {
        case .count(let count): return count
        case .wouldBlock: throw .wouldBlock
        case .failed(let errno): throw SocketError(errno: errno.rawValue)
        }
    }

    func receive(_ count: Int, _ flags: SocketCall.ReceiveFlags) throws(SocketError) -> ReceivedMessage {
        var messageFlags: MessageFlags = []
        if flags.contains(.noWait) { messageFlags.insert(.doNotWait) }
        if flags.contains(.peek) { messageFlags.insert(.peek) }
        if flags.contains(.truncate) { messageFlags.insert(.truncated) }
        if flags.contains(.waitAll) { messageFlags.insert(.waitAll) }
        var buffer = [UInt8](repeating: 0, count: count)
        let result = buffer.withUnsafeMutableBytes {
            DescriptorIO.receiveMessage(raw, into: $0, flags: messageFlags)
        }
        switch result {
        case .message(let length, let flags):
            return ReceivedMessage(
                result: length, bytes: Array(buffer[..<min(length, count)]),
                endOfRecord: flags.contains(.endOfRecord), truncated: flags.contains(.truncated))
        case .wouldBlock: throw .wouldBlock
        case .failed(let errno): throw SocketError(errno: errno.rawValue)
        }
    }

    func shutdown(_ direction: SocketCall.Direction) throws(SocketError) {
        try Self.call { () throws(SystemCallError) in
            switch direction {
            case .rd: try SocketOptions.shutdown(raw, .receive)
            case .wr: try SocketOptions.shutdown(raw, .send)
            case .rdwr: try SocketOptions.shutdown(raw, .both)
            }
        }
    }

    func set(_ option: SocketCall.Option, _ value: Int) throws(SocketError) {
        let nanoseconds = UInt64(clamping: value).multipliedReportingOverflow(by: 1_000_000).partialValue
        try Self.call { () throws(SystemCallError) in
            switch option {
            case .size: try VsockKernelSocket.setBuffer(raw, .size, byteCount: UInt64(clamping: value))
            case .min: try VsockKernelSocket.setBuffer(raw, .minimumSize, byteCount: UInt64(clamping: value))
            case .max: try VsockKernelSocket.setBuffer(raw, .maximumSize, byteCount: UInt64(clamping: value))
            case .lowat: try SocketOptions.setReceiveLowWaterMark(raw, byteCount: value)
            case .rcvtimeo: try SocketOptions.setReceiveTimeout(raw, nanoseconds: nanoseconds)
            case .sndtimeo: try SocketOptions.setSendTimeout(raw, nanoseconds: nanoseconds)
            case .conntimeo: try VsockKernelSocket.setConnectTimeout(raw, nanoseconds: nanoseconds)
            }
        }
    }

    func get(_ option: SocketCall.Option) throws(SocketError) -> Int {
        try Self.call { () throws(SystemCallError) in
            switch option {
            case .size: Int(clamping: try VsockKernelSocket.buffer(raw, .size))
            case .min: Int(clamping: try VsockKernelSocket.buffer(raw, .minimumSize))
            case .max: Int(clamping: try VsockKernelSocket.buffer(raw, .maximumSize))
            case .lowat: try SocketOptions.receiveLowWaterMark(raw)
            case .rcvtimeo: Int(clamping: try SocketOptions.receiveTimeout(raw) / 1_000_000)
            case .sndtimeo: Int(clamping: try SocketOptions.sendTimeout(raw) / 1_000_000)
            case .conntimeo: Int(clamping: try VsockKernelSocket.connectTimeout(raw) / 1_000_000)
            }
        }
    }

    func poll() throws(SocketError) -> SocketReadiness {
        let events = try Self.call { () throws(SystemCallError) in
            try DescriptorIO.waitUntilReady(
                raw, for: [.readable, .writable, .readHangUp], timeoutNanoseconds: 0)
        }
        return SocketReadiness(rawValue: events.rawValue)
    }

    func takeError() throws(SocketError) -> SocketError? {
        let errno = try Self.call { () throws(SystemCallError) in try SocketOptions.takeError(raw) }
        return errno.map { SocketError(errno: $0.rawValue) }
    }

    func localAddress() throws(SocketError) -> VsockAddress {
        Self.address(try Self.call { () throws(SystemCallError) in try VsockKernelSocket.localAddress(raw) })
    }

    func peerAddress() throws(SocketError) -> VsockAddress {
        Self.address(try Self.call { () throws(SystemCallError) in try VsockKernelSocket.peerAddress(raw) })
    }

    func unsentByteCount() throws(SocketError) -> Int {
        try Self.call { () throws(SystemCallError) in try SocketOptions.unsentByteCount(raw) }
    }

    /// The descriptor is closed with its last reference, which this is: the interpreter has let go of the socket.
    func close() {}
}

/// The kernel's loopback (vsock_loopback.c): one queue of packets for all sockets, which one worker empties in order.
final class KernelScriptedSockets: ScriptedSockets {
    private let throughPackage: Bool
    private let first: KernelScriptedSocket
    private let second: any ScriptedSocket

    /// - Parameter throughPackage: whether calls go through this package's sockets on the kernel's, DescriptorSocket,
    ///   instead of being system calls.
    init(throughPackage: Bool) throws(SocketError) {
        self.throughPackage = throughPackage
        let listener = try Self.make(.stream)
        try listener.bind(to: VsockAddress(cid: .local, port: .any))
        try listener.listen(backlog: 1)
        first = try Self.make(.stream)
        try first.connect(to: try listener.localAddress(), noWait: false)
        second = try listener.accept(noWait: false)
    }

    private static func make(_ type: SocketType) throws(SocketError) -> KernelScriptedSocket {
        let unixType: UnixSocketType = type == .stream ? .stream : .seqpacket
        return KernelScriptedSocket(
            try KernelScriptedSocket.call { () throws(SystemCallError) in
                try VsockKernelSocket.make(type: unixType.rawValue, nonBlocking: false)
            })
    }

    func makeSocket(_ type: SocketType) throws(SocketError) -> any ScriptedSocket {
        throughPackage ? PackageScriptedSocket(try DescriptorSocket(kernel: type)) : try Self.make(type)
    }

    /// A byte through a connection of our own is behind everything that has been sent. A request has an answer, which
    /// may have one, too; nothing has three.
    func settle() throws(SocketError) {
        for _ in 0..<3 {
            _ = try first.send([0], noWait: false, endOfRecord: false)
            _ = try second.receive(1, [])
        }
    }
}
