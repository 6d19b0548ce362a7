// SPDX-License-Identifier: Apache-2.0
//
// Connections of descriptor sockets, both ways.

import VsockCore
import VsockSystem
import VsockWire

extension DescriptorSocket {
    /// The longest answer to CONNECT: `OK 4294967295` and a line feed.
    private static let maximumAnswerByteCount = 14
    /// Ports tried for one that is free: a device has few listeners among 2^30 ports.
    private static let portAttemptCount = 16

    /// bind(2)
    public func bind(to address: VsockAddress) throws(SocketError) {
        guard case .hybrid(let path) = family else {
            return try withDescriptor(.any) { (raw, _) throws(SocketError) in
                try Self.call { () throws(SystemCallError) in
                    try VsockKernelSocket.bind(
                        raw, to: VsockKernelAddress(cid: address.cid.rawValue, port: address.port.rawValue))
                }
            }
        }
        guard address.cid == .any || address.cid == .host else { throw .addressNotAvailable }
        let port = address.port == .any ? try Self.freePort(path) : address.port.rawValue
        lock.lock()
        defer { lock.unlock() }
        guard !isClosed else { throw .badDescriptor }
        guard boundPort == nil, descriptor == nil else { throw .invalidArgument }
        boundPort = port
    }

    /// A port that no file is there for. Somebody else may make it before `listen`, which then says EADDRINUSE.
    private static func freePort(_ path: String) throws(SocketError) -> UInt32 {
        for _ in 0..<portAttemptCount {
            let port = UInt32.random(in: EndpointConfiguration.defaultEphemeralPorts)
            if !FileSystem.exists("\(path)_\(port)") { return port }
        }
        throw .addressInUse
    }

    /// listen(2); a hybrid socket makes its file. A stale one is replaced, a live one is EADDRINUSE.
    public func listen(backlog: Int) throws(SocketError) {
        guard case .hybrid(let path) = family else {
            return try withDescriptor(.any) { (raw, _) throws(SocketError) in
                try Self.call { () throws(SystemCallError) in try VsockKernelSocket.listen(raw, backlog: backlog) }
            }
        }
        lock.lock()
        let (port, hasBegun) = (boundPort, listener != nil || descriptor != nil)
        lock.unlock()
        guard let port, !hasBegun else { throw .invalidArgument }
        let made = try Self.call { () throws(SystemCallError) in
            try UnixListener(
                UnixAddress("\(path)_\(port)"), type: unixType, mode: 0o600, backlog: min(backlog, Int(Int32.max)))
        }
        let descriptor = try Self.call { () throws(SystemCallError) in
            try OwnedFileDescriptor.duplicate(of: made.rawDescriptor)
        }
        try adopt(descriptor)
        lock.withLock { listener = isClosed ? nil : made }
    }

    /// accept(2)
    public func attemptAccept() throws(SocketError) -> Attempt<any ConnectibleSocket> {
        lock.lock()
        let (listener, port, settings, isClosed) = (listener, boundPort, settingsInForce, isClosed)
        let sendBuffer = hybridSendBuffer
        lock.unlock()
        if case .hybrid = family, listener == nil, !isClosed { throw .invalidArgument }
        return try withDescriptor(.readable) { (raw, ticket) throws(SocketError) in
            let accepted = try Self.call { () throws(SystemCallError) in
                if let listener { try listener.accept() } else { try VsockKernelSocket.accept(raw) }
            }
            guard let accepted else { return .blocked(ticket) }
            let socket = DescriptorSocket(family, type)
            socket.settingsInForce = settings.inherited
            socket.hybridLocal = port
            socket.hybridSendBuffer = sendBuffer
            try socket.adopt(accepted)
            if case .kernel = family { socket.readKernelSettings() }
            try socket.prepareForData()
            return .done(socket)
        }
    }

    /// connect(2), with the handshake of the hybrid convention.
    public func attemptConnect(
        to address: VsockAddress, _ operation: inout ConnectOperation
    ) throws(SocketError) -> Attempt<Void> {
        switch family {
        case .kernel:
            return operation.hasStarted
                ? try finishKernelConnect(address, operation) : try startKernelConnect(address, &operation)
        case .hybrid(let path):
            if !operation.hasStarted { try startHybridConnect(path, address, &operation) }
            return try finishHybridConnect(address, &operation)
        }
    }

    /// Gives up connecting: there is no other way than to close.
    public func abandonConnect() { close() }

    // MARK: The kernel's

    private func startKernelConnect(
        _ address: VsockAddress, _ operation: inout ConnectOperation
    ) throws(SocketError) -> Attempt<Void> {
        let now = Instant(nanoseconds: MonotonicClock.now())
        operation.kernelDeadline = now.advanced(byNanoseconds: settings.connectTimeoutNanoseconds)
        let (isDone, ticket) = try withDescriptor(.writable) { (raw, ticket) throws(SocketError) in
            let isDone = try Self.call { () throws(SystemCallError) in
                try VsockKernelSocket.connect(
                    raw, to: VsockKernelAddress(cid: address.cid.rawValue, port: address.port.rawValue))
            }
            return (isDone, ticket)
        }
        operation.hasStarted = true
        // A kernel has its own connect timeout.
        guard isDone else { return .blocked(ticket) }
        try prepareForData()
        return .done(())
    }

    private func finishKernelConnect(
        _ address: VsockAddress, _ operation: ConnectOperation
    ) throws(SocketError) -> Attempt<Void> {
        let ticket = try withDescriptor(.writable) { (raw, ticket) throws(SocketError) -> WaitTicket? in
            let events = try Self.call { () throws(SystemCallError) in
                try DescriptorIO.waitUntilReady(raw, for: .writable, timeoutNanoseconds: 0)
            }
            guard !events.isEmpty else { return ticket }
            if events.contains(.error) { try takeRefusal(raw, address, operation) }
            let error = try Self.call { () throws(SystemCallError) in try SocketOptions.takeError(raw) }
            if let error { throw SocketError(errno: error.rawValue) }
            return nil
        }
        if let ticket { return .blocked(ticket) }
        try prepareForData()
        return .done(())
    }

    /// Throws what a connect came to that was refused. By SO_ERROR alone the kernel would go on to take the socket for
    /// one that connects, and say EALREADY; a connect that may wait takes the error, at once, and leaves the socket as
    /// new. Not one that has run out of time: that is as new already, and would connect again.
    private func takeRefusal(
        _ raw: Int32, _ address: VsockAddress, _ operation: ConnectOperation
    ) throws(SocketError) {
        let now = Instant(nanoseconds: MonotonicClock.now())
        guard let deadline = operation.kernelDeadline, now < deadline else { return }
        do throws(SocketError) {
            try Self.call { () throws(SystemCallError) in
                try DescriptorIO.setNonBlocking(raw, false)
                defer { try? DescriptorIO.setNonBlocking(raw) }
                _ = try VsockKernelSocket.connect(
                    raw, to: VsockKernelAddress(cid: address.cid.rawValue, port: address.port.rawValue))
            }
        } catch {
            // It was connected, and has ended since: SO_ERROR says how.
            guard error == .alreadyConnected else { throw error }
        }
    }

    // MARK: A hybrid device's

    private func startHybridConnect(
        _ path: String, _ address: VsockAddress, _ operation: inout ConnectOperation
    ) throws(SocketError) {
        guard lock.withLock({ descriptor == nil }) else { throw .alreadyConnected }
        try adopt(try hybridDescriptor(path))
        try prepareForData()
        let command = Array("CONNECT \(address.port.rawValue)\n".utf8)
        try withDescriptor(.writable) { (raw, _) throws(SocketError) in
            let sent = command.withUnsafeBytes { DescriptorIO.send(raw, from: $0) }
            guard case .count(command.count) = sent else { throw .connectionReset }
        }
        operation.hasStarted = true
        let now = Instant(nanoseconds: MonotonicClock.now())
        operation.deadline = now.advanced(byNanoseconds: settings.connectTimeoutNanoseconds)
    }

    /// Connects to the device's file. Without the device it is ENODEV, as with a transport that is not there; a device
    /// that has no file for records has no seqpacket.
    private func hybridDescriptor(_ path: String) throws(SocketError) -> OwnedFileDescriptor {
        do throws(SystemCallError) {
            let target = type == .stream ? path : "\(path)_seqpacket"
            return try UnixSocket.connect(to: UnixAddress(target), type: unixType, nonBlocking: true)
        } catch {
            switch error.errno {
            case .wrongSocketType: throw .socketTypeNotSupported
            case .noSuchFile where type == .seqpacket && FileSystem.exists(path): throw .socketTypeNotSupported
            case .noSuchFile, .connectionRefused: throw .noDevice
            default: throw SocketError(errno: error.errno.rawValue)
            }
        }
    }

    private func finishHybridConnect(
        _ address: VsockAddress, _ operation: inout ConnectOperation
    ) throws(SocketError) -> Attempt<Void> {
        try withDescriptor(.readable) { (raw, ticket) throws(SocketError) in
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
    static func acceptedPort(_ answer: [UInt8]) -> UInt32? {
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

    /// What a socket needs before the first byte.
    private func prepareForData() throws(SocketError) {
        try withDescriptor(.any) { (raw, _) throws(SocketError) in
            switch family {
            case .kernel:
                guard type == .seqpacket else { return }
                // See +KernelRecords; all other calls say MSG_DONTWAIT themselves.
                try Self.call { () throws(SystemCallError) in try DescriptorIO.setNonBlocking(raw, false) }
            case .hybrid:
                prepareHybrid(raw)
            }
        }
    }
}
