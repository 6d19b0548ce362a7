// SPDX-License-Identifier: Apache-2.0
//
// Packets into a file, as Linux's vsockmon and a capturing program would write them (pcap, LINKTYPE_VSOCK).
//
//      packet: copied into a bounded buffer     batch ends, or the buffer is full: written
//
// A capture must not harm what it watches. A file that cannot be written any more (the disk is full, nobody reads the
// pipe) ends the capture and nothing else. A pipe whose reader is slow loses packets, as the buffer is all that is kept
// for it; the packets that are in the file are whole.

import Logging
import VirtioQueue
import VsockSystem
import VsockWire

/// Writes every packet into a capture. Several transports may share one.
public final class PacketCapture: PacketTap, @unchecked Sendable {
    // Unchecked: everything mutable is guarded by `lock`.

    /// Bytes that wait to be written, at most: a dozen packets of the largest size.
    static let bufferByteCount = 1 << 20
    /// How long the end of a capture waits for a slow reader of a pipe.
    static let finishTimeoutNanoseconds: UInt64 = 1_000_000_000

    /// The smallest number of bytes that packets can be cut to: all headers, and the payload of a record marker.
    public static let minimumSnapLength = CaptureFormat.packetHeaderByteCount + SequenceHeader.byteCount
    /// The largest packet whole.
    public static let defaultSnapLength = CaptureFormat.maximumPacketByteCount

    private let path: String
    private let snapLength: Int
    private let byteLimit: UInt64
    /// Bytes that the file has, or is about to have.
    private var capturedByteCount = UInt64(CaptureFormat.fileHeaderByteCount)
    private let log: Logger
    private let lock = Monitor()
    /// Gone when the capture has ended.
    private var file: OwnedFileDescriptor?
    private var waiting = CaptureBuffer(capacity: bufferByteCount)
    private var lostPacketCount = 0

    /// Creates or empties the file at `path`, with mode 0600; a pipe may be there, too, if it has a reader.
    /// - Parameters:
    ///   - path: the file's.
    ///   - snapLength: bytes of a packet that are kept, its headers of 76 bytes included; at least
    ///     ``minimumSnapLength``.
    ///   - byteLimit: bytes of the file beyond which no packet is added: the capture ends; nil for no limit.
    ///   - log: hears, once, when the capture has to end or loses packets.
    /// - Throws: what open(2) or the first write(2) says; EWOULDBLOCK when the file is that of a capture which goes on.
    public convenience init(
        path: String, snapLength: Int = defaultSnapLength, byteLimit: UInt64? = nil, log: Logger
    ) throws(SystemCallError) {
        try self.init(
            FileSystem.createForOneWriter(path), path: path, snapLength: snapLength, byteLimit: byteLimit, log: log)
    }

    /// Writes to an open file that does not block; `path` is its name for people.
    init(
        _ file: consuming OwnedFileDescriptor, path: String, snapLength: Int = defaultSnapLength,
        byteLimit: UInt64? = nil, log: Logger
    ) throws(SystemCallError) {
        self.path = path
        self.snapLength = max(Self.minimumSnapLength, min(snapLength, CaptureFormat.maximumPacketByteCount))
        self.byteLimit = byteLimit ?? .max
        self.log = log
        self.file = consume file
        if let area = waiting.reserve(CaptureFormat.fileHeaderByteCount) {
            CaptureFormat.writeFileHeader(snapLength: self.snapLength, to: area)
        }
        // So that a file that cannot be written is found before anything is captured.
        guard let errno = writeWaiting() else { return }
        self.file = nil
        throw SystemCallError(call: "write", errno: errno, path: path)
    }

    deinit { finish() }

    public func packet(_ header: PacketHeader, _ payload: PacketPayload, isOutgoing: Bool) {
        lock.lock()
        defer { lock.unlock() }
        guard file != nil else { return }
        let byteCount = payload.reduce(CaptureFormat.packetHeaderByteCount) { $0 + $1.count }
        let capturedByteCount = min(byteCount, snapLength)
        let recordByteCount = CaptureFormat.recordHeaderByteCount + capturedByteCount
        guard self.capturedByteCount + UInt64(recordByteCount) <= byteLimit else { return end() }
        if !waiting.hasRoom(recordByteCount) { flush() }
        guard let area = waiting.reserve(recordByteCount) else { return lose() }
        self.capturedByteCount += UInt64(recordByteCount)
        // The time is taken with the lock, so that it does not go back within a file.
        CaptureFormat.writeRecordHeader(
            time: WallClock.now(), capturedByteCount: capturedByteCount, byteCount: byteCount, to: area)
        var rest = UnsafeMutableRawBufferPointer(rebasing: area[CaptureFormat.recordHeaderByteCount...])
        MonitorHeader(header).write(to: rest)
        rest = UnsafeMutableRawBufferPointer(rebasing: rest[MonitorHeader.byteCount...])
        header.write(to: rest)
        rest = UnsafeMutableRawBufferPointer(rebasing: rest[PacketHeader.byteCount...])
        for segment in payload where !rest.isEmpty {
            let count = min(segment.count, rest.count)
            rest.copyMemory(from: UnsafeRawBufferPointer(start: segment.base, count: count))
            rest = UnsafeMutableRawBufferPointer(rebasing: rest[count...])
        }
    }

    public func batchEnded() {
        lock.lock()
        defer { lock.unlock() }
        flush()
    }

    /// Writes what is left and closes the file. What crosses from now on is not captured.
    public func finish() {
        lock.lock()
        defer { lock.unlock() }
        flush()
        let end = MonotonicClock.now() + Self.finishTimeoutNanoseconds
        while let descriptor = file?.rawValue, !waiting.isEmpty {
            let now = MonotonicClock.now()
            let ready = try? DescriptorIO.waitUntilReady(
                descriptor, for: .writable, timeoutNanoseconds: end > now ? end - now : 0)
            guard let ready, !ready.isEmpty else {
                log.warning("the end of the capture is lost: its reader is too slow", metadata: ["file": "\(path)"])
                break
            }
            flush()
        }
        file = nil
        guard lostPacketCount > 0 else { return }
        log.warning(
            "the capture has not all packets", metadata: ["file": "\(path)", "lost": "\(lostPacketCount)"])
        lostPacketCount = 0
    }

    private func flush() {
        guard let errno = writeWaiting() else { return }
        log.error("the capture has ended; traffic goes on", metadata: ["file": "\(path)", "error": "\(errno)"])
        file = nil
    }

    /// The file has its largest size.
    private func end() {
        flush()
        log.warning("the capture has ended at its limit; traffic goes on", metadata: ["file": "\(path)"])
        file = nil
    }

    private func lose() {
        // The attempt to make room may have ended the capture.
        guard file != nil else { return }
        if lostPacketCount == 0 {
            log.warning("the capture loses packets: its reader is too slow", metadata: ["file": "\(path)"])
        }
        lostPacketCount += 1
    }

    /// Writes what waits, as far as the file takes it; what it failed with.
    private func writeWaiting() -> Errno? {
        guard let descriptor = file?.rawValue else { return nil }
        while !waiting.isEmpty {
            switch DescriptorIO.write(descriptor, from: waiting.bytes) {
            case .count(let count): waiting.removeFirst(count)
            case .wouldBlock: return nil
            case .failed(let errno): return errno
            }
        }
        return nil
    }
}

/// Bytes in order, in memory that is allocated once.
private struct CaptureBuffer: ~Copyable {
    private let storage: UnsafeMutableRawBufferPointer
    private var start = 0
    private var end = 0

    init(capacity: Int) { storage = .allocate(byteCount: capacity, alignment: 16) }

    deinit { storage.deallocate() }

    var isEmpty: Bool { start == end }

    /// The bytes that wait.
    var bytes: UnsafeRawBufferPointer { UnsafeRawBufferPointer(rebasing: storage[start..<end]) }

    func hasRoom(_ byteCount: Int) -> Bool { storage.count - end >= byteCount }

    /// Adds `byteCount` bytes, to be written by the caller; nil when there is no room.
    mutating func reserve(_ byteCount: Int) -> UnsafeMutableRawBufferPointer? {
        if !hasRoom(byteCount), start > 0 {
            storage.copyMemory(from: bytes)
            end -= start
            start = 0
        }
        guard hasRoom(byteCount) else { return nil }
        defer { end += byteCount }
        return UnsafeMutableRawBufferPointer(rebasing: storage[end..<(end + byteCount)])
    }

    mutating func removeFirst(_ byteCount: Int) {
        start += byteCount
        if start == end {
            start = 0
            end = 0
        }
    }
}
