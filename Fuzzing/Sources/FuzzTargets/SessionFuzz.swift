// SPDX-License-Identifier: Apache-2.0
//
// A monitor on a socket: messages that are nearly right, with descriptors that are the right ones, other ones, too
// many or none, its own end of the socket among them, in any order, whole or in pieces; rings in memory that it writes
// to, set up as monitors do it or at odds with that; and the record of what is in flight, fetched, written to and given
// back. No descriptor may be lost, and when the monitor has gone the session has ended and nothing is left.

import VhostUser
import VsockSystem

@testable import VsockTransport

enum SessionFuzz {
    static func run(_ input: inout FuzzInput, _ bench: FuzzBench) throws(FuzzFinding) {
        let fuzz: DeviceUnderFuzz
        let monitor: HostileMonitor
        do throws(SystemCallError) {
            fuzz = try DeviceUnderFuzz(&input, bench)
            monitor = try HostileMonitor(fuzz, bench)
        } catch {
            throw FuzzFinding("no descriptors: \(error)")
        }
        while !input.isEmpty, !monitor.hasEnded {
            switch input.below(10) {
            case 0: monitor.poke(&input)
            case 1: try fuzz.run()
            case 2:
                fuzz.device.kicked(input.below(3))
                try fuzz.run()
            case 3: monitor.start(&input)
            default: monitor.send(VhostUserFuzz.request(&input), &input)
            }
        }
        monitor.leave()
        let hasEnded = monitor.hasEnded
        try expect(hasEnded, "a session ends with its monitor")
        try expect(!fuzz.device.isReady && fuzz.device.memory == nil, "a monitor that has left has no queues")
        try fuzz.run()
        try fuzz.finish()
    }
}

/// The other end of a session.
private final class HostileMonitor {
    private let session: VhostUserSession
    private var socket: OwnedFileDescriptor?
    private let shared: SharedMemory
    private let signal: EventNotifier
    /// What an input does not use need not be as new.
    private lazy var memory = FuzzBench.cleared(shared)
    private lazy var notifier = FuzzBench.silenced(signal)
    /// The file of GET_INFLIGHT_FD.
    private var record: OwnedFileDescriptor?
    /// A socket that no message wants, but for the back-end's channel.
    private var stray: OwnedFileDescriptor?
    private var startCount = 0
    private let end = SessionEnd()

    private final class SessionEnd { var hasCome = false }

    init(_ fuzz: DeviceUnderFuzz, _ bench: FuzzBench) throws(SystemCallError) {
        let pair = try UnixSocket.makePair(.stream, nonBlocking: true)
        shared = try bench.sharedMemory()
        signal = try bench.notifier()
        session = try VhostUserSession(pair.first, device: fuzz.device, loop: fuzz.loop, log: fuzz.log) {
            [end] in end.hasCome = true
        }
        socket = .some(pair.second)
    }

    var hasEnded: Bool { end.hasCome }

    /// Writes to the memory that is shared with the device.
    func poke(_ input: inout FuzzInput) {
        let offset = Int(input.integer(UInt16.self))
        let bytes = input.take(1 + input.below(32))
        guard let source = bytes.baseAddress, offset + bytes.count <= FuzzBench.sharedByteCount else { return }
        (memory.mapping.base + offset).copyMemory(from: source, byteCount: bytes.count)
    }

    // MARK: Messages

    /// A message with what the input says comes with it.
    func send(_ message: [UInt8], _ input: inout FuzzInput) {
        let descriptors = descriptors(for: message, &input)
        // The first piece carries the descriptors; or the last one, which no monitor does.
        let middle = input.below(8) == 0 ? input.below(message.count + 1) : message.count
        for piece in [message[..<middle], message[middle...]] where !piece.isEmpty && !hasEnded {
            send(piece, descriptors)
        }
        if Self.isAnswered(message) { receiveReply() }
    }

    /// Whether a reply may have come: to a request that has one of its own, or that says need_reply.
    private static func isAnswered(_ message: [UInt8]) -> Bool {
        guard message.count >= MessageHeader.byteCount else { return true }
        return message[4] & 8 != 0 || FrontendMessageType(rawValue: UInt32(message[0]))?.hasOwnReply ?? true
    }

    private func send(_ bytes: ArraySlice<UInt8>, _ descriptors: [Int32]) {
        guard let raw = socket?.rawValue else { return }
        _ = bytes.withUnsafeBytes { DescriptorIO.sendMessage(raw, from: $0, descriptors: descriptors) }
        session.ready(.readable)
    }

    /// Mostly what the message wants.
    private func descriptors(for message: [UInt8], _ input: inout FuzzInput) -> [Int32] {
        if input.below(8) == 0 {
            return (0..<input.below(17)).map { _ in descriptor(input.below(8)) }
        }
        switch message.first.flatMap({ FrontendMessageType(rawValue: UInt32($0)) }) {
        case .setMemoryTable:
            let count = message.count > 12 ? Int(message[12]) : 0
            return [Int32](repeating: memory.rawDescriptor, count: min(count, 16))
        case .addMemoryRegion: return [memory.rawDescriptor]
        case .setInflightDescriptor: return [record?.rawValue ?? memory.rawDescriptor]
        case .setVringKick, .setVringCall, .setVringError:
            return message.count > 13 && message[13] & 1 == 1 ? [] : [notifier.rawDescriptor]
        case .setBackendRequestDescriptor: return [descriptor(input.below(8))]
        default: return []
        }
    }

    /// A descriptor of a kind.
    private func descriptor(_ kind: Int) -> Int32 {
        switch kind {
        case 0: return socket?.rawValue ?? notifier.rawDescriptor
        case 1, 2:
            // What it is used for shows in it, so that the next input needs another one.
            if stray == nil, let pair = try? UnixSocket.makePair(.stream, nonBlocking: true) {
                stray = .some(pair.first)
            }
            return stray?.rawValue ?? notifier.rawDescriptor
        case 3, 4: return memory.rawDescriptor
        default: return notifier.rawDescriptor
        }
    }

    /// A monitor that does not read its replies is disconnected; this one mostly reads.
    private func receiveReply() {
        guard let raw = socket?.rawValue else { return }
        withUnsafeTemporaryAllocation(byteCount: 8192, alignment: 8) { buffer in
            var descriptors = DescriptorList()
            _ = DescriptorIO.receiveMessage(raw, into: buffer, descriptors: &descriptors)
            if let file = descriptors.take(at: 0) { record = .some(file) }
        }
    }

    // MARK: Start

    private static let base: UInt64 = 0x10_0000
    private static let queueSize = 16
    private static let queueDistance: UInt64 = 0x1000
    /// More of them show nothing new, and take most of the time.
    private static let startLimit = 2

    /// The messages with which a monitor starts a device, but for those that the input leaves out.
    func start(_ input: inout FuzzInput) {
        guard startCount < Self.startLimit else { return }
        startCount += 1
        let omitted = input.integer(UInt16.self)
        let options = input.byte()
        let area = InflightArea(
            byteCount: UInt64(InflightMemory.byteCount(InflightArea(queueCount: 3, queueSize: Self.queueSize))),
            mmapOffset: options & 1 == 0 ? 0 : UInt64(input.byte()), queueCount: 3, queueSize: Self.queueSize)
        if options & 4 != 0 {
            send([.setOwner, .getInflight(area)], omitting: 0)
            receiveReply()
        }
        var requests: [FrontendRequest] = [
            .setFeatures(1 << 32 | 1 << 30 | 3),
            .setMemoryTable([
                MemoryRegion(
                    guestAddress: Self.base, byteCount: UInt64(FuzzBench.sharedByteCount), userAddress: Self.base,
                    mmapOffset: 0)
            ]),
        ]
        if record != nil { requests.append(.setInflight(area)) }
        for queue in 0..<(options & 8 == 0 ? 2 : VsockDevice.QueueIndex.count) {
            let start = Self.base + UInt64(queue) * Self.queueDistance
            requests += [
                .setQueueSize(queue: queue, size: Self.queueSize),
                .setQueueAddresses(
                    queue: queue,
                    VringAddress(descriptorTable: start, usedRing: start + 0x400, availableRing: start + 0x800)),
            ]
            if options & 2 != 0 { requests.append(.setQueueBase(queue: queue, UInt16(input.byte()))) }
            requests += [.setKick(queue: queue, hasDescriptor: true), .setQueueEnabled(queue: queue, true)]
        }
        send(requests, omitting: omitted)
    }

    /// All of them before the session reads any, but for those whose bit says so. A request with a descriptor begins a
    /// new piece of the stream, because descriptors come with the first byte of one.
    private func send(_ requests: [FrontendRequest], omitting omitted: UInt16) {
        guard let raw = socket?.rawValue, !hasEnded else { return }
        var piece: [UInt8] = []
        var descriptors: [Int32] = []
        func sendPiece() {
            guard !piece.isEmpty else { return }
            _ = piece.withUnsafeBytes { DescriptorIO.sendMessage(raw, from: $0, descriptors: descriptors) }
            piece.removeAll(keepingCapacity: true)
            descriptors = []
        }
        for (index, request) in requests.enumerated() where (omitted >> (index % 16)) & 1 == 0 {
            let wanted: Int32? =
                switch request {
                case .setMemoryTable: memory.rawDescriptor
                case .setInflight: record?.rawValue ?? memory.rawDescriptor
                case .setKick: notifier.rawDescriptor
                default: nil
                }
            if let wanted {
                sendPiece()
                descriptors = [wanted]
            }
            var session = FrontendSession()
            piece += session.send(request).bytes
        }
        sendPiece()
        session.ready(.readable)
    }

    /// Closes the socket, if the session has not ended before.
    func leave() {
        socket = nil
        if !hasEnded { session.ready([.readable, .readHangUp]) }
    }
}
