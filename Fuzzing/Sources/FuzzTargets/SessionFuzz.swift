// SPDX-License-Identifier: Apache-2.0
//
// A monitor on a real socket: messages that are nearly right, with descriptors that are the right ones, other ones, too
// many or none, in any order, whole or in pieces; rings in memory that it writes to. No descriptor may be lost,
// and nothing is left when the monitor has gone.

import VhostUser
import VsockSystem

@testable import VsockTransport

enum SessionFuzz {
    static func run(_ input: inout FuzzInput) throws(FuzzFinding) {
        let fuzz: DeviceUnderFuzz
        let monitor: HostileMonitor
        do throws(SystemCallError) {
            fuzz = try DeviceUnderFuzz(&input)
            monitor = try HostileMonitor(fuzz)
        } catch {
            throw FuzzFinding("no descriptors: \(error)")
        }
        while !input.isEmpty, !monitor.hasEnded {
            switch input.below(8) {
            case 0: monitor.poke(&input)
            case 1: try fuzz.run()
            case 2:
                fuzz.device.kicked(input.below(3))
                try fuzz.run()
            default: monitor.send(VhostUserFuzz.request(&input), &input)
            }
        }
        monitor.leave()
        try expect(!fuzz.device.isReady && fuzz.device.memory == nil, "a monitor that has left has no queues")
        try fuzz.run()
        try fuzz.finish()
    }
}

/// The other end of a session.
private final class HostileMonitor {
    /// As large as the largest region that a request of ``VhostUserFuzz`` usually names.
    private static let memoryByteCount = 32 << 12

    private let session: VhostUserSession
    private var socket: OwnedFileDescriptor?
    private let memory: SharedMemory
    private let notifier: EventNotifier
    /// What no message wants. Not the session's own socket: a session does not end while it holds the other end of it.
    private let stray: OwnedFileDescriptor
    private let end = SessionEnd()

    private final class SessionEnd { var hasCome = false }

    init(_ fuzz: DeviceUnderFuzz) throws(SystemCallError) {
        let pair = try UnixSocket.makePair(.stream, nonBlocking: true)
        memory = try SharedMemory(name: "fuzz", byteCount: Self.memoryByteCount)
        notifier = try EventNotifier()
        let strays = try UnixSocket.makePair(.stream, nonBlocking: true)
        stray = strays.first
        session = try VhostUserSession(pair.first, device: fuzz.device, loop: fuzz.loop, log: fuzz.log) {
            [end] in end.hasCome = true
        }
        socket = .some(pair.second)
    }

    var hasEnded: Bool { end.hasCome }

    /// Writes to the memory that is shared with the device.
    func poke(_ input: inout FuzzInput) {
        let offset = Int(input.integer(UInt16.self)) % Self.memoryByteCount
        let bytes = input.take(1 + input.below(32))
        guard let source = bytes.baseAddress, offset + bytes.count <= Self.memoryByteCount else { return }
        (memory.mapping.base + offset).copyMemory(from: source, byteCount: bytes.count)
    }

    func send(_ message: [UInt8], _ input: inout FuzzInput) {
        guard let raw = socket?.rawValue else { return }
        let descriptors = descriptors(for: message, &input)
        // The first piece carries the descriptors; or the last one, which no monitor does.
        let middle = input.below(8) == 0 ? input.below(message.count + 1) : message.count
        for piece in [message[..<middle], message[middle...]] where !piece.isEmpty {
            _ = piece.withUnsafeBytes { DescriptorIO.sendMessage(raw, from: $0, descriptors: descriptors) }
            session.ready(.readable)
            guard !hasEnded else { return }
        }
        drainReplies(raw)
    }

    /// Mostly what the message wants.
    private func descriptors(for message: [UInt8], _ input: inout FuzzInput) -> [Int32] {
        if input.below(8) == 0 {
            let kinds = [memory.rawDescriptor, notifier.rawDescriptor, stray.rawValue]
            return (0..<input.below(17)).map { _ in input.pick(kinds) }
        }
        switch message.first.flatMap({ FrontendMessageType(rawValue: UInt32($0)) }) {
        case .setMemoryTable:
            let count = message.count > 12 ? Int(message[12]) : 0
            return [Int32](repeating: memory.rawDescriptor, count: min(count, 16))
        case .addMemoryRegion, .setInflightDescriptor: return [memory.rawDescriptor]
        case .setVringKick, .setVringCall, .setVringError:
            return message.count > 13 && message[13] & 1 == 1 ? [] : [notifier.rawDescriptor]
        case .setBackendRequestDescriptor: return [notifier.rawDescriptor]
        default: return []
        }
    }

    /// A monitor that does not read its replies is disconnected; this one mostly reads.
    private func drainReplies(_ raw: Int32) {
        withUnsafeTemporaryAllocation(byteCount: 8192, alignment: 1) { buffer in
            _ = DescriptorIO.receive(raw, into: buffer, flags: .doNotWait)
        }
    }

    /// Closes the socket, if the session has not ended before.
    func leave() {
        socket = nil
        if !hasEnded { session.ready([.readable, .readHangUp]) }
    }
}
