// SPDX-License-Identifier: Apache-2.0
//
// Connections of descriptor sockets, both ways, and their end.

import VsockCore
import VsockSystem
import VsockWire

extension DescriptorSocket {
    /// The longest answer to CONNECT: `OK 4294967295` and a line feed.
    private static let maximumAnswerByteCount = 14

    /// bind(2); a hybrid socket needs a port.
    public func bind(to address: VsockAddress) throws(SocketError) {
        if case .kernel = family {
            return try withDescriptor(.any) { (raw, _) throws(SocketError) in
                try Self.call { () throws(SystemCallError) in
                    try VsockKernelSocket.bind(
                        raw, to: VsockKernelAddress(cid: address.cid.rawValue, port: address.port.rawValue))
                }
            }
        }
        guard address.port != .any else { throw .notSupported }
        lock.lock()
        defer { lock.unlock() }
        guard boundPort == nil, watch == nil else { throw .invalidArgument }
        boundPort = address.port.rawValue
    }

    /// listen(2); a hybrid socket makes its file. A stale one is replaced, a live one is EADDRINUSE.
    public func listen(backlog: Int) throws(SocketError) {
        guard case .hybrid(let path) = family else {
            return try withDescriptor(.any) { (raw, _) throws(SocketError) in
                try Self.call { () throws(SystemCallError) in try VsockKernelSocket.listen(raw, backlog: backlog) }
            }
        }
        guard let port = lock.withLock({ boundPort }), lock.withLock({ listener == nil }) else {
            throw .invalidArgument
        }
        let made = try Self.call { () throws(SystemCallError) in
            try UnixListener(UnixAddress("\(path)_\(port)"), type: unixType, mode: 0o600)
        }
        let descriptor = try Self.call { () throws(SystemCallError) in
            try OwnedFileDescriptor.duplicate(of: made.rawDescriptor)
        }
        lock.withLock { listener = made }
        adopt(descriptor)
    }

    /// accept(2)
    public func attemptAccept() throws(SocketError) -> Attempt<any ConnectibleSocket> {
        let listener = lock.withLock { self.listener }
        return try withDescriptor(.readable) { (raw, ticket) throws(SocketError) in
            let accepted = try Self.call { () throws(SystemCallError) in
                if let listener { try listener.accept() } else { try VsockKernelSocket.accept(raw) }
            }
            guard let accepted else { return .blocked(ticket) }
            let socket = DescriptorSocket(family, type)
            socket.settingsInForce = settings.inherited
            socket.hybridLocal = boundPort
            socket.hybridSendBuffer = lock.withLock { hybridSendBuffer }
            socket.adopt(accepted)
            try socket.becameConnected()
            return .done(socket)
        }
    }

    /// connect(2), with the handshake of the hybrid convention.
    public func attemptConnect(
        to address: VsockAddress, _ operation: inout ConnectOperation
    ) throws(SocketError) -> Attempt<Void> {
        if operation.hasStarted { return try finishConnect(address, &operation) }
        guard case .hybrid(let path) = family else {
            return try startKernelConnect(address, &operation)
        }
        guard lock.withLock({ watch == nil }) else { throw .alreadyConnected }
        let target = type == .stream ? path : "\(path)_seqpacket"
        let descriptor = try Self.call { () throws(SystemCallError) in
            try UnixSocket.connect(to: UnixAddress(target), type: unixType, nonBlocking: true)
        }
        adopt(descriptor)
        let command = Array("CONNECT \(address.port.rawValue)\n".utf8)
        try withDescriptor(.writable) { (raw, _) throws(SocketError) in
            let sent = command.withUnsafeBytes { DescriptorIO.send(raw, from: $0) }
            guard case .count(command.count) = sent else { throw .connectionReset }
        }
        operation.hasStarted = true
        let now = Instant(nanoseconds: MonotonicClock.now())
        operation.deadline = now.advanced(byNanoseconds: settings.connectTimeoutNanoseconds)
        return try finishConnect(address, &operation)
    }

    /// Gives up connecting.
    public func abandonConnect() { close() }

    private func startKernelConnect(
        _ address: VsockAddress, _ operation: inout ConnectOperation
    ) throws(SocketError) -> Attempt<Void> {
        let (isDone, ticket) = try withDescriptor(.writable) { (raw, ticket) throws(SocketError) in
            let isDone = try Self.call { () throws(SystemCallError) in
                try VsockKernelSocket.connect(
                    raw, to: VsockKernelAddress(cid: address.cid.rawValue, port: address.port.rawValue))
            }
            return (isDone, ticket)
        }
        operation.hasStarted = true
        guard isDone else { return .blocked(ticket) }
        try becameConnected()
        return .done(())
    }

    private func finishKernelConnect() throws(SocketError) -> Attempt<Void> {
        let ticket: WaitTicket? = try withDescriptor(.writable) { (raw, ticket) throws(SocketError) in
            let events = try Self.call { () throws(SystemCallError) in
                try DescriptorIO.waitUntilReady(raw, for: .writable, timeoutNanoseconds: 0)
            }
            guard !events.isEmpty else { return ticket }
            let error = try Self.call { () throws(SystemCallError) in try SocketOptions.takeError(raw) }
            if let error { throw SocketError(errno: error.rawValue) }
            return nil
        }
        if let ticket { return .blocked(ticket) }
        try becameConnected()
        return .done(())
    }

    private func finishConnect(
        _ address: VsockAddress, _ operation: inout ConnectOperation
    ) throws(SocketError) -> Attempt<Void> {
        guard case .hybrid = family else { return try finishKernelConnect() }
        return try withDescriptor(.readable) { (raw, ticket) throws(SocketError) in
            guard try readAnswer(raw, &operation.answer) else { return .blocked(ticket) }
            guard let port = Self.acceptedPort(operation.answer) else { throw .protocolError }
            lock.withLock {
                hybridLocal = port
                hybridPeer = address.port.rawValue
            }
            return .done(())
        }
    }

    /// The host's port in `OK <port>`, with a line feed or, as a record, without; nil for any other answer.
    private static func acceptedPort(_ answer: [UInt8]) -> UInt32? {
        let text = answer.last == UInt8(ascii: "\n") ? answer.dropLast() : answer[...]
        let prefix = Array("OK ".utf8)
        guard text.starts(with: prefix) else { return nil }
        return UInt32(String(decoding: text.dropFirst(prefix.count), as: UTF8.self))
    }

    /// Reads the answer and not a byte more; false when it is not complete. A record is complete.
    private func readAnswer(_ raw: Int32, _ answer: inout [UInt8]) throws(SocketError) -> Bool {
        var bytes = [UInt8](repeating: 0, count: type == .stream ? 1 : Self.maximumAnswerByteCount)
        while answer.last != UInt8(ascii: "\n"), type == .stream || answer.isEmpty {
            guard answer.count < Self.maximumAnswerByteCount else { throw .protocolError }
            switch bytes.withUnsafeMutableBytes({ DescriptorIO.receive(raw, into: $0) }) {
            case .count(0): throw .connectionReset
            case .count(let count): answer += bytes[..<count]
            case .wouldBlock: return false
            case .failed(let errno): throw SocketError(errno: errno.rawValue)
            }
        }
        return true
    }

    private var unixType: UnixSocketType { type == .stream ? .stream : .seqpacket }

    // MARK: Ends

    /// shutdown(2)
    public func shutdown(_ direction: ShutdownDirection) throws(SocketError) {
        try withDescriptor(.any) { (raw, _) throws(SocketError) in
            try Self.call { () throws(SystemCallError) in
                switch direction {
                case .receive: try SocketOptions.shutdown(raw, .receive)
                case .send: try SocketOptions.shutdown(raw, .send)
                case .both: try SocketOptions.shutdown(raw, .both)
                }
            }
        }
        lock.withLock { waits.signalAll() }
    }

    /// close(2). The descriptor is closed when nothing uses it any more.
    public func close() {
        lock.lock()
        let entry = watch
        if kernelRecordCount > 0, let entry { try? SocketOptions.shutdown(entry.descriptor.rawValue, .both) }
        watch = nil
        listener = nil
        isClosed = true
        waits.signalAll()
        lock.unlock()
        if let entry { DescriptorLoop.remove(entry) }
    }
}
