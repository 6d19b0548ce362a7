// SPDX-License-Identifier: Apache-2.0
//
// Connected and listening Unix sockets, as net/unix/af_unix.c has them. Shut directions are a mask on either end; a
// sender's buffer holds what the receiver has not read; a record may exceed what is left of the buffer, not the buffer.

import VsockSystem
import VsockTestSupport

/// One end of a connection.
final class ModelSocket: PolledObject {
    /// Smallest SO_SNDBUF as Linux counts it: SOCK_MIN_SNDBUF.
    static let minimumSendBuffer = 4608
    /// What a record may not use of the send buffer.
    static let recordOverhead = 32

    let type: UnixSocketType
    var peer: ModelSocket?
    /// What has come and was not read: a record, or what one send of a stream has left, each.
    var inbox: [[UInt8]] = []
    private var inboxHead = 0
    /// Bytes in `inbox`.
    private(set) var unreadByteCount = 0
    var sendBuffer = 212_992
    var isReceiveShut = false
    var isSendShut = false
    /// ECONNRESET, reported once.
    var pendingError: Errno?
    var isClosed = false
    /// Whether the last receive was MSG_PEEK.
    var wasSeen = false

    init(_ type: UnixSocketType) { self.type = type }

    /// Bytes that this end has sent and the other has not read.
    var queuedByteCount: Int { peer?.unreadByteCount ?? 0 }
    var hasUnread: Bool { inboxHead < inbox.count }
    /// The oldest unread record, or piece of a stream.
    var first: [UInt8] { inbox[inboxHead] }

    override var readiness: PollEvents {
        var events: PollEvents = []
        if pendingError != nil { events.insert(.error) }
        if isReceiveShut && isSendShut { events.insert(.hangUp) }
        if isReceiveShut { events.formUnion([.readHangUp, .readable]) }
        if hasUnread { events.insert(.readable) }
        // unix_writable(): a quarter of the buffer at most is in use.
        if queuedByteCount * 4 <= sendBuffer { events.insert(.writable) }
        return events
    }

    func append(_ bytes: [UInt8]) {
        inbox.append(bytes)
        unreadByteCount += bytes.count
    }

    /// Takes bytes of a stream, or the oldest record.
    func take(_ limit: Int) -> [UInt8] {
        guard type == .stream else {
            defer { dropFirst() }
            unreadByteCount -= first.count
            return first
        }
        var bytes: [UInt8] = []
        while hasUnread, bytes.count < limit {
            let room = limit - bytes.count
            if first.count <= room {
                bytes += first
                dropFirst()
            } else {
                bytes += first[..<room]
                inbox[inboxHead].removeFirst(room)
            }
        }
        unreadByteCount -= bytes.count
        return bytes
    }

    private func dropFirst() {
        inboxHead += 1
        if inboxHead == inbox.count {
            inbox = []
            inboxHead = 0
        }
    }
}

/// A listening socket.
final class ModelListener: PolledObject {
    let path: String
    let type: UnixSocketType
    var waiting: [ModelSocket] = []

    init(path: String, type: UnixSocketType) {
        self.path = path
        self.type = type
    }

    override var readiness: PollEvents { waiting.isEmpty ? [] : .readable }
}

extension ModelKernel {
    /// Connections that wait to be accepted.
    private static var backlog: Int { 64 }

    // MARK: Making connections

    func connect(to path: String, type: UnixSocketType) -> Result<Int32, Errno> {
        guard !faults.exhaustsDescriptors else { return .failure(.tooManyOpenFiles) }
        return connectProgram(to: path, type: type).map { open(.socket($0)) }
    }

    /// As a program of the simulation connects, which needs no descriptor.
    func connectProgram(to path: String, type: UnixSocketType) -> Result<ModelSocket, Errno> {
        guard let listener = listeners[path] else { return .failure(.noSuchFile) }
        guard listener.type == type else { return .failure(.wrongSocketType) }
        guard listener.waiting.count < Self.backlog else { return .failure(.wouldBlock) }
        let (near, far) = (ModelSocket(type), ModelSocket(type))
        near.peer = far
        far.peer = near
        listener.waiting.append(far)
        listener.wake(.readable)
        activity += 1
        return .success(near)
    }

    func listen(at path: String, type: UnixSocketType) -> Result<Int32, Errno> {
        guard listeners[path] == nil else { return .failure(.addressInUse) }
        return openForDevice(.listener(listenProgram(at: path, type: type)))
    }

    /// As a program of the simulation listens, which needs no descriptor.
    func listenProgram(at path: String, type: UnixSocketType) -> ModelListener {
        let listener = ModelListener(path: path, type: type)
        listeners[path] = listener
        return listener
    }

    func accept(_ listener: Int32) -> Result<Int32, Errno> {
        guard case .listener(let object)? = object(listener) else { return .failure(.badFileDescriptor) }
        guard !object.waiting.isEmpty else { return .failure(.wouldBlock) }
        guard !faults.exhaustsDescriptors else { return .failure(.tooManyOpenFiles) }
        activity += 1
        return .success(open(.socket(object.waiting.removeFirst())))
    }

    func closeListener(_ listener: ModelListener) {
        if listeners[listener.path] === listener { listeners[listener.path] = nil }
        for socket in listener.waiting { closeSocket(socket) }
        listener.waiting = []
        listener.watchers = []
    }

    /// unix_release_sock()
    func closeSocket(_ socket: ModelSocket) {
        guard !socket.isClosed else { return }
        socket.isClosed = true
        socket.watchers = []
        guard let peer = socket.peer else { return }
        socket.peer = nil
        peer.peer = nil
        peer.isReceiveShut = true
        peer.isSendShut = true
        if socket.hasUnread { peer.pendingError = .connectionReset }
        peer.wake([.readable, .writable, .readHangUp, .hangUp, .error])
    }

    // MARK: Data

    /// What a program of the simulation reads: bytes, or one record; nil when there is nothing, and empty at the end.
    func receive(_ socket: ModelSocket, limit: Int) -> [UInt8]? {
        if socket.pendingError != nil, socket.type == .seqpacket || !socket.hasUnread { socket.pendingError = nil }
        guard socket.hasUnread else { return socket.isReceiveShut ? [] : nil }
        activity += 1
        defer { if let peer = socket.peer, peer.readiness.contains(.writable) { peer.wake(.writable) } }
        return socket.take(limit)
    }

    func receive(
        _ descriptor: Int32, into segments: [UnsafeMutableRawBufferPointer], flags: MessageFlags
    ) -> MessageResult {
        guard let socket = socket(descriptor) else { return .failed(.badFileDescriptor) }
        let isPeek = flags.contains(.peek)
        // A fault stands for data that comes a moment later: what was seen, or was sent before the end, is there.
        let isFaulty = !isPeek && !socket.wasSeen && !socket.isReceiveShut
        socket.wasSeen = isPeek
        if isFaulty, socket.hasUnread, chance(faults.spuriousBlocks) {
            holdBack(socket)
            return .wouldBlock
        }
        let capacity = segments.reduce(0) { $0 + $1.count }
        // A stream gives its data first, a datagram socket its error.
        if let error = socket.pendingError, socket.type == .seqpacket || !socket.hasUnread {
            socket.pendingError = nil
            return .failed(error)
        }
        guard socket.hasUnread else { return socket.isReceiveShut ? .message(count: 0, flags: []) : .wouldBlock }
        if isPeek {
            let bytes = socket.first
            let count = copy(bytes.prefix(capacity), to: segments)
            return .message(count: flags.contains(.truncated) ? bytes.count : count, flags: [])
        }
        var limit = capacity
        if isFaulty, socket.type == .stream, limit > 1, socket.unreadByteCount > 1, chance(faults.shortTransfers) {
            limit = random.within(1...min(limit, socket.unreadByteCount))
            if limit < socket.unreadByteCount { holdBack(socket) }
        }
        let bytes = socket.take(limit)
        activity += 1
        // sock_wfree(): the sender has room again.
        if let peer = socket.peer, peer.readiness.contains(.writable) { peer.wake(.writable) }
        let count = copy(bytes.prefix(capacity), to: segments)
        return .message(count: count, flags: bytes.count > capacity ? .truncated : [])
    }

    func send(_ descriptor: Int32, from segments: [UnsafeRawBufferPointer]) -> IOResult {
        guard let socket = socket(descriptor) else { return .failed(.badFileDescriptor) }
        var bytes: [UInt8] = []
        for segment in segments { bytes += segment }
        return send(socket, bytes, isFaulty: true)
    }

    /// unix_stream_sendmsg(), unix_seqpacket_sendmsg(). Programs of the simulation see no faults.
    func send(_ socket: ModelSocket, _ bytes: [UInt8], isFaulty: Bool) -> IOResult {
        if let error = socket.pendingError {
            socket.pendingError = nil
            return .failed(error)
        }
        guard !socket.isSendShut, let peer = socket.peer, !peer.isReceiveShut else { return .failed(.brokenPipe) }
        if socket.type == .seqpacket, bytes.count > socket.sendBuffer - ModelSocket.recordOverhead {
            return .failed(.messageTooLong)
        }
        guard socket.queuedByteCount < socket.sendBuffer else { return .wouldBlock }
        // An empty buffer takes everything.
        let isFaulty = isFaulty && socket.queuedByteCount > 0
        if isFaulty, chance(faults.spuriousBlocks) {
            holdBack(socket)
            return .wouldBlock
        }
        var count = bytes.count
        if socket.type == .stream {
            count = min(count, socket.sendBuffer - socket.queuedByteCount)
            if isFaulty, count > 1, chance(faults.shortTransfers) {
                count = random.within(1...count)
                holdBack(socket)
            }
            guard count > 0 else { return bytes.isEmpty ? .count(0) : .wouldBlock }
        }
        peer.append(count == bytes.count ? bytes : Array(bytes[..<count]))
        peer.wake(.readable)
        activity += 1
        return .count(count)
    }

    func shutdown(_ descriptor: Int32, _ direction: SocketOptions.Direction) -> Errno? {
        guard let socket = socket(descriptor) else { return .badFileDescriptor }
        shutdown(socket, receive: direction != .send, send: direction != .receive)
        return nil
    }

    /// unix_shutdown(): what one end gives up is given up at the other, too.
    func shutdown(_ socket: ModelSocket, receive: Bool, send: Bool) {
        if receive { socket.isReceiveShut = true }
        if send { socket.isSendShut = true }
        activity += 1
        socket.wake([.readable, .writable, .readHangUp, .hangUp])
        guard let peer = socket.peer else { return }
        if receive { peer.isSendShut = true }
        if send { peer.isReceiveShut = true }
        peer.wake([.readable, .writable, .readHangUp, .hangUp])
    }

    // MARK: Options

    func unreadByteCount(_ descriptor: Int32) -> Int { socket(descriptor)?.unreadByteCount ?? 0 }

    func sendBuffer(_ descriptor: Int32) -> Int { socket(descriptor)?.sendBuffer ?? 0 }

    func setSendBuffer(_ descriptor: Int32, byteCount: Int) {
        socket(descriptor)?.sendBuffer = max(ModelSocket.minimumSendBuffer, 2 * min(byteCount, maximumSendBuffer))
    }

    private func copy(_ bytes: ArraySlice<UInt8>, to segments: [UnsafeMutableRawBufferPointer]) -> Int {
        var rest = bytes
        for segment in segments where !rest.isEmpty {
            let part = rest.prefix(segment.count)
            segment.copyBytes(from: part)
            rest = rest.dropFirst(part.count)
        }
        return bytes.count
    }
}
