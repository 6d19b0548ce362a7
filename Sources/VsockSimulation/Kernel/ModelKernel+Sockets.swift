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
    @exclusivity(unchecked) var peer: ModelSocket?
    /// What has come and was not read: a record, or what one send of a stream has left, each.
    @exclusivity(unchecked) private var inbox: [ModelMessage] = []
    @exclusivity(unchecked) private var inboxHead = 0
    /// Bytes in `inbox`.
    @exclusivity(unchecked) private(set) var unreadByteCount = 0
    @exclusivity(unchecked) var sendBuffer = 212_992
    @exclusivity(unchecked) var isReceiveShut = false
    @exclusivity(unchecked) var isSendShut = false
    /// ECONNRESET, reported once.
    @exclusivity(unchecked) var pendingError: Errno?
    var isClosed = false
    /// Whether the last receive was MSG_PEEK.
    @exclusivity(unchecked) var wasSeen = false

    init(_ type: UnixSocketType) { self.type = type }

    /// Bytes that this end has sent and the other has not read.
    var queuedByteCount: Int { peer?.unreadByteCount ?? 0 }
    var hasUnread: Bool { inboxHead < inbox.count }
    /// The oldest unread record, or piece of a stream.
    var first: ArraySlice<UInt8> { inbox[inboxHead].unread }

    override var readiness: PollEvents {
        var events: PollEvents = []
        if pendingError != nil { events.insert(.error) }
        if isReceiveShut && isSendShut { events.insert(.hangUp) }
        if isReceiveShut { events.formUnion([.readHangUp, .readable]) }
        if hasUnread { events.insert(.readable) }
        if isWritable { events.insert(.writable) }
        return events
    }

    /// unix_writable(): a quarter of the buffer at most is in use.
    private var isWritable: Bool { queuedByteCount * 4 <= sendBuffer }

    /// sock_wfree(): what the other end has read is room again.
    func roomFreed() { if isWritable { wake(.writable) } }

    func append(_ bytes: [UInt8], _ files: [PassedFile]) {
        inbox.append(ModelMessage(bytes: bytes, files: files))
        unreadByteCount += bytes.count
    }

    /// Takes bytes of a stream, or the oldest record, and what came with them. Returns how many they were: of a record
    /// all, however many there was room for.
    func take(into buffer: UnsafeMutableRawBufferPointer, files: inout [PassedFile]) -> Int {
        var count = 0
        if type == .stream {
            // unix_stream_read_generic(): what descriptors came with is not followed by more.
            while hasUnread, count < buffer.count, files.isEmpty {
                count += inbox[inboxHead].take(
                    into: UnsafeMutableRawBufferPointer(rebasing: buffer[count...]), files: &files)
                if inbox[inboxHead].unreadByteCount == 0 { dropFirst() }
            }
        } else {
            count = inbox[inboxHead].unreadByteCount
            _ = inbox[inboxHead].take(into: buffer, files: &files)
            dropFirst()
        }
        unreadByteCount -= count
        return count
    }

    /// Empties the inbox; returns what was on its way in it.
    func takeFiles() -> [PassedFile] {
        defer {
            inbox = []
            inboxHead = 0
            unreadByteCount = 0
        }
        return inbox[inboxHead...].flatMap(\.files)
    }

    private func dropFirst() {
        inboxHead += 1
        if inboxHead == inbox.count {
            inbox.removeAll(keepingCapacity: true)
            inboxHead = 0
        }
    }
}

/// A listening socket.
final class ModelListener: PolledObject {
    let path: String
    let type: UnixSocketType
    let backlog: Int
    var waiting: [ModelSocket] = []

    init(path: String, type: UnixSocketType, backlog: Int) {
        self.path = path
        self.type = type
        self.backlog = backlog
    }

    override var readiness: PollEvents { waiting.isEmpty ? [] : .readable }
}

extension ModelKernel {
    /// Connections that wait for a program of the simulation to accept them.
    private static var programBacklog: Int { 64 }

    // MARK: Making connections

    func connect(to path: String, type: UnixSocketType) -> Result<Int32, Errno> {
        guard !faults.exhaustsDescriptors else { return .failure(.tooManyOpenFiles) }
        return connectProgram(to: path, type: type).map { open(.socket($0)) }
    }

    /// As a program of the simulation connects, which needs no descriptor.
    func connectProgram(to path: String, type: UnixSocketType) -> Result<ModelSocket, Errno> {
        guard let listener = listeners[path] else { return .failure(.noSuchFile) }
        guard listener.type == type else { return .failure(.wrongSocketType) }
        // sk_acceptq_is_full(): one more than the number that was asked for.
        guard listener.waiting.count <= listener.backlog else { return .failure(.wouldBlock) }
        let (near, far) = Self.connectedSockets(type)
        listener.waiting.append(far)
        listener.wake(.readable)
        activity += 1
        return .success(near)
    }

    private static func connectedSockets(_ type: UnixSocketType) -> (ModelSocket, ModelSocket) {
        let ends = (ModelSocket(type), ModelSocket(type))
        ends.0.peer = ends.1
        ends.1.peer = ends.0
        return ends
    }

    func makePair(_ type: UnixSocketType) -> Result<(Int32, Int32), Errno> {
        guard !faults.exhaustsDescriptors else { return .failure(.tooManyOpenFiles) }
        let ends = Self.connectedSockets(type)
        return .success((open(.socket(ends.0)), open(.socket(ends.1))))
    }

    func listen(at path: String, type: UnixSocketType, backlog: Int) -> Result<Int32, Errno> {
        guard listeners[path] == nil else { return .failure(.addressInUse) }
        return openForDevice(.listener(listenProgram(at: path, type: type, backlog: backlog)))
    }

    /// As a program of the simulation listens, which needs no descriptor.
    func listenProgram(at path: String, type: UnixSocketType, backlog: Int = programBacklog) -> ModelListener {
        let listener = ModelListener(path: path, type: type, backlog: backlog)
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
        listener.forgetWatchers()
    }

    /// unix_release_sock()
    func closeSocket(_ socket: ModelSocket) {
        guard !socket.isClosed else { return }
        socket.isClosed = true
        socket.forgetWatchers()
        let hasUnread = socket.hasUnread
        defer { release(socket.takeFiles()) }
        guard let peer = socket.peer else { return }
        socket.peer = nil
        peer.peer = nil
        peer.isReceiveShut = true
        peer.isSendShut = true
        if hasUnread { peer.pendingError = .connectionReset }
        peer.wake([.readable, .writable, .readHangUp, .hangUp, .error])
    }

    // MARK: Data

    /// What a program of the simulation reads: bytes, or one record; nil when there is nothing, and empty at the end.
    func receive(_ socket: ModelSocket, limit: Int) -> [UInt8]? {
        if socket.pendingError != nil, socket.type == .seqpacket || !socket.hasUnread { socket.pendingError = nil }
        guard socket.hasUnread else { return socket.isReceiveShut ? [] : nil }
        activity += 1
        var files: [PassedFile] = []
        let room = socket.type == .stream ? min(limit, socket.unreadByteCount) : socket.first.count
        let bytes = [UInt8](unsafeUninitializedCapacity: room) { buffer, count in
            count = socket.take(
                into: UnsafeMutableRawBufferPointer(rebasing: UnsafeMutableRawBufferPointer(buffer)[..<room]),
                files: &files)
        }
        release(files)
        socket.peer?.roomFreed()
        return bytes
    }

    func receive(
        _ descriptor: Int32, into segments: [UnsafeMutableRawBufferPointer], flags: MessageFlags
    ) -> MessageResult {
        var files: [PassedFile] = []
        let result = receive(descriptor, into: segments, flags: flags, files: &files)
        guard !files.isEmpty, case .message(let count, let flags) = result else { return result }
        release(files)
        return .message(count: count, flags: flags.union(.controlTruncated))
    }

    func receive(
        _ descriptor: Int32, into segments: [UnsafeMutableRawBufferPointer], flags: MessageFlags,
        files: inout [PassedFile]
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
        // A stream gives its data first, a datagram socket its error.
        if let error = socket.pendingError, socket.type == .seqpacket || !socket.hasUnread {
            socket.pendingError = nil
            return .failed(error)
        }
        guard socket.hasUnread else { return socket.isReceiveShut ? .message(count: 0, flags: []) : .wouldBlock }
        let capacity = segments.count == 1 ? segments[0].count : segments.reduce(0) { $0 + $1.count }
        if isPeek {
            let bytes = socket.first
            let count = bytes.withUnsafeBytes { scatter($0, to: segments) }
            return .message(count: flags.contains(.truncated) ? bytes.count : count, flags: [])
        }
        var limit = capacity
        if isFaulty, socket.type == .stream, limit > 1, socket.unreadByteCount > 1, chance(faults.shortTransfers) {
            limit = random.within(1...min(limit, socket.unreadByteCount))
            if limit < socket.unreadByteCount { holdBack(socket) }
        }
        let count: Int
        if segments.count == 1 {
            count = socket.take(into: UnsafeMutableRawBufferPointer(rebasing: segments[0][..<limit]), files: &files)
        } else {
            limit = min(limit, socket.unreadByteCount)
            count = withUnsafeTemporaryAllocation(byteCount: limit, alignment: 1) { buffer in
                let count = socket.take(into: buffer, files: &files)
                scatter(UnsafeRawBufferPointer(rebasing: buffer[..<min(count, limit)]), to: segments)
                return count
            }
        }
        activity += 1
        socket.peer?.roomFreed()
        return .message(count: min(count, capacity), flags: count > capacity ? .truncated : [])
    }

    func send(_ descriptor: Int32, from segments: [UnsafeRawBufferPointer]) -> IOResult {
        guard let socket = socket(descriptor) else { return .failed(.badFileDescriptor) }
        var bytes: [UInt8] = []
        bytes.reserveCapacity(segments.reduce(0) { $0 + $1.count })
        for segment in segments { bytes += segment }
        return send(socket, bytes, isFaulty: true)
    }

    /// unix_stream_sendmsg(), unix_seqpacket_sendmsg(). Programs of the simulation see no faults.
    func send(_ socket: ModelSocket, _ bytes: [UInt8], files: [PassedFile] = [], isFaulty: Bool) -> IOResult {
        if let error = socket.pendingError {
            socket.pendingError = nil
            return .failed(error)
        }
        guard !socket.isSendShut, let peer = socket.peer, !peer.isReceiveShut else { return .failed(.brokenPipe) }
        if socket.type == .seqpacket, bytes.count > socket.sendBuffer - ModelSocket.recordOverhead {
            return .failed(.messageTooLong)
        }
        if socket.type == .stream, bytes.isEmpty { return .count(0) }
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
        }
        peer.append(count == bytes.count ? bytes : Array(bytes[..<count]), files)
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

    func socketType(_ descriptor: Int32) -> UnixSocketType? {
        switch object(descriptor) {
        case .socket(let socket)?: socket.type
        case .listener(let listener)?: listener.type
        case .notifier?, .poller?, nil: nil
        }
    }

    func unreadByteCount(_ descriptor: Int32) -> Int { socket(descriptor)?.unreadByteCount ?? 0 }

    func sendBuffer(_ descriptor: Int32) -> Int { socket(descriptor)?.sendBuffer ?? 0 }

    func setSendBuffer(_ descriptor: Int32, byteCount: Int) {
        socket(descriptor)?.sendBuffer = max(ModelSocket.minimumSendBuffer, 2 * min(byteCount, maximumSendBuffer))
    }
}
