// SPDX-License-Identifier: Apache-2.0
//
// The attacks of a hostile guest, its monitor and its host programs: what has crashed, wedged or slowed other devices,
// and whatever else a ring, a packet or a vhost-user message can be made to say.

import Glibc
import VhostUser
import VirtioQueue
import VsockSystem
import VsockTestSupport
import VsockWire

@testable import VsockTransport

/// Something to do to a device for a while.
enum Attack: String, CaseIterable, Sendable {
    case indexJump, headOutOfRange, loop, indirectInIndirect, outsideMemory, sameChain, changingRing
    case memoryTableChanged, vanishing, kickFlood, garbagePackets, requestFlood, siblingFlood, creditLies
    case emptyRecords, shutdownStorm, garbageMessages, garbageInflight, silentClients, memoryShortened

    /// Where the victim of the attack is, and whom it may reach.
    struct Target: Sendable {
        var cid: UInt32
        var socketPath: String
        var hybridPath: String
        /// A port that a host program listens on and never reads from.
        var hostPort: UInt32
        /// Guests of the same group.
        var siblings: [UInt32]
    }

    /// Goes on until `end`, however often the device ends the session.
    func run(_ target: Target, until end: UInt64, random: inout SeededGenerator) {
        var step = 0
        while MonotonicClock.now() < end {
            switch self {
            case .garbageMessages: Self.sendGarbage(target, &random)
            case .silentClients: Self.connectSilently(target)
            default:
                guard let guest = try? HostileGuest(cid: target.cid, path: target.socketPath) else { continue }
                repeat {
                    attack(guest, target, step, &random)
                    step += 1
                } while MonotonicClock.now() < end && step % sessionStepCount != 0
            }
        }
    }

    /// Steps until the monitor leaves.
    private var sessionStepCount: Int {
        switch self {
        case .vanishing: 2
        case .memoryShortened: 1
        default: 1024
        }
    }

    private func attack(_ guest: HostileGuest, _ target: Target, _ step: Int, _ random: inout SeededGenerator) {
        let queue = step % 2
        switch self {
        case .indexJump:
            guest.publish(UInt16(truncatingIfNeeded: random.next()), queue: queue)
            guest.kick(queue)
        case .headOutOfRange:
            guest.offer(UInt16.random(in: 64 ... .max, using: &random), queue: queue)
            guest.kick(queue)
        case .loop:
            for index in 0..<HostileGuest.queueSize {
                let next = UInt16(truncatingIfNeeded: index + 1) % UInt16(HostileGuest.queueSize)
                guest.write(
                    Descriptor(address: guest.slotAddress(index), byteCount: 44, flags: 1, next: next), at: index,
                    queue: HostileGuest.transmit)
            }
            for head in 0..<UInt16(HostileGuest.queueSize) { guest.offer(head, queue: HostileGuest.transmit) }
            guest.kick(HostileGuest.transmit)
        case .indirectInIndirect, .outsideMemory:
            for index in 0..<HostileGuest.queueSize { guest.write(strange(guest, &random), at: index, queue: queue) }
            for head in 0..<UInt16(HostileGuest.queueSize) { guest.offer(head, queue: queue) }
            guest.kick(queue)
        case .sameChain:
            guest.fill(0, guest.packet(.creditRequest, from: 1, to: 1))
            guest.write(
                Descriptor(address: guest.slotAddress(0), byteCount: 44, flags: 0, next: 0), at: 0,
                queue: HostileGuest.transmit)
            for _ in 0..<HostileGuest.queueSize { guest.offer(0, queue: HostileGuest.transmit) }
            guest.kick(HostileGuest.transmit)
        case .changingRing:
            // The device works on the last round meanwhile.
            guest.send(step, guest.packet(.request, from: UInt32(step), to: target.hostPort))
            for index in 0..<HostileGuest.queueSize {
                guest.write(strange(guest, &random), at: index, queue: HostileGuest.transmit)
                guest.fill(index, (0..<44).map { _ in UInt8.random(in: 0...255, using: &random) })
            }
        case .memoryTableChanged:
            guest.send(step, guest.packet(.request, from: UInt32(step), to: target.hostPort))
            guard let other = try? SharedMemory(name: "other", byteCount: 1 << 16) else { return }
            var region = guest.region
            region.byteCount = 1 << 16
            _ = try? guest.frontend.perform(.setMemoryTable([region]), [other.rawDescriptor])
            _ = try? guest.frontend.perform(.setMemoryTable([guest.region]), [guest.memory.rawDescriptor])
        case .vanishing:
            guest.postReceiveBuffers()
            guest.send(step, guest.packet(.request, from: UInt32(step), to: target.hostPort))
        case .kickFlood:
            for _ in 0..<1000 {
                guest.kick(HostileGuest.transmit)
                guest.kick(HostileGuest.receive)
            }
        case .garbagePackets:
            let count = Int.random(in: 0...128, using: &random)
            guest.postReceiveBuffers()
            guest.send(step, (0..<count).map { _ in UInt8.random(in: 0...255, using: &random) })
        case .requestFlood:
            if step % 32 == 0 { guest.postReceiveBuffers() }
            let port = step % 2 == 0 ? target.hostPort : 1
            guest.send(step, guest.packet(.request, from: UInt32(step), to: port), isKicked: step % 16 == 0)
        case .siblingFlood:
            if step % 32 == 0 { guest.postReceiveBuffers() }
            let cid = UInt64(target.siblings.randomElement(using: &random) ?? 2)
            let source: UInt64? = step % 3 == 0 ? cid : nil
            guest.send(
                step, guest.packet(.request, from: UInt32(step), to: UInt32(step % 9), cid: cid, source: source),
                isKicked: step % 16 == 0)
        case .creditLies:
            if step % 32 == 0 { guest.postReceiveBuffers() }
            let operations: [Operation] = [.request, .readWrite, .creditUpdate, .readWrite, .creditRequest]
            let operation = operations[step % operations.count]
            let payload = [UInt8](repeating: 7, count: operation == .readWrite ? 4000 : 0)
            guest.send(
                step,
                guest.packet(
                    operation, from: UInt32(step / 500), to: target.hostPort, payload: payload,
                    bufferAllocation: UInt32(truncatingIfNeeded: random.next()),
                    forwardedCount: UInt32(truncatingIfNeeded: random.next())))
        case .emptyRecords:
            if step % 32 == 0 { guest.postReceiveBuffers() }
            let port = UInt32(step / 1000)
            let operation: Operation = step % 1000 == 0 ? .request : .readWrite
            guest.send(
                step, guest.packet(operation, type: .seqpacket, from: port, to: target.hostPort + 1, flags: 1),
                isKicked: step % 16 == 0)
        case .shutdownStorm:
            if step % 32 == 0 { guest.postReceiveBuffers() }
            let operations: [Operation] = [.request, .shutdown, .response, .reset, .request, .shutdown]
            guest.send(
                step,
                guest.packet(
                    operations[step % operations.count], from: UInt32(step % 7), to: target.hostPort,
                    flags: UInt32(step % 5)))
        case .garbageInflight:
            garbageInflight(guest, target, &random)
        case .memoryShortened:
            guest.postReceiveBuffers()
            for slot in 0..<HostileGuest.queueSize {
                guest.send(slot, guest.packet(.request, from: UInt32(slot), to: target.hostPort), isKicked: false)
            }
            try? guest.shortenMemory(to: [0, 4096, 1 << 16].randomElement(using: &random) ?? 0)
        case .garbageMessages, .silentClients:
            break
        }
    }

    /// A descriptor that no driver would write.
    private func strange(_ guest: HostileGuest, _ random: inout SeededGenerator) -> Descriptor {
        let addresses = [
            0, .max, .max - 8, guest.slotAddress(0), HostileGuest.guestBase + (1 << 20) - 8, random.next(),
        ]
        let counts: [UInt32] = [0, 1, 15, 16, 44, 1024, 65_536, .max]
        return Descriptor(
            address: addresses.randomElement(using: &random) ?? 0, byteCount: counts.randomElement(using: &random) ?? 0,
            flags: UInt16.random(in: 0...7, using: &random), next: UInt16.random(in: 0...80, using: &random))
    }

    private func garbageInflight(_ guest: HostileGuest, _ target: Target, _ random: inout SeededGenerator) {
        guard let memory = try? SharedMemory(name: "inflight", byteCount: 8192) else { return }
        for offset in stride(from: 0, to: 8192, by: 8) {
            memory.mapping.base.storeBytes(of: random.next(), toByteOffset: offset, as: UInt64.self)
        }
        memory.mapping.base.storeBytes(of: 1, toByteOffset: 8, as: UInt16.self)
        memory.mapping.base.storeBytes(of: 64, toByteOffset: 10, as: UInt16.self)
        let area = InflightArea(
            byteCount: UInt64(random.next() % 16384), mmapOffset: [0, 4, 8, .max].randomElement(using: &random) ?? 0,
            queueCount: Int(random.next() % 4), queueSize: 64)
        for queue in 0..<3 { _ = try? guest.frontend.perform(.getQueueBase(queue: queue), []) }
        _ = try? guest.frontend.perform(.setInflight(area), [memory.rawDescriptor])
        guest.send(0, guest.packet(.creditRequest, from: 1, to: 1))
    }

    /// Messages of a monitor that is none: any request with any bytes, in pieces, with descriptors that do not belong.
    private static func sendGarbage(_ target: Target, _ random: inout SeededGenerator) {
        guard
            let socket = try? UnixSocket.connect(
                to: UnixAddress(target.socketPath), type: .stream, nonBlocking: true),
            let notifier = try? EventNotifier()
        else { return }
        for _ in 0..<Int.random(in: 1...20, using: &random) {
            let count = Int.random(in: 0...300, using: &random)
            var bytes = (0..<(12 + count)).map { _ in UInt8.random(in: 0...255, using: &random) }
            let header: [UInt8] = [
                UInt8.random(in: 0...45, using: &random), 0, 0, 0, [1, 9].randomElement(using: &random) ?? 1, 0, 0, 0,
                UInt8(truncatingIfNeeded: count), UInt8(truncatingIfNeeded: count >> 8), 0, 0,
            ]
            bytes.replaceSubrange(0..<12, with: header)
            // At times the monitor's own end: a daemon that held it, too, would not see the session end.
            let passed = Int.random(in: 0...7, using: &random) == 0 ? socket.rawValue : notifier.rawDescriptor
            let descriptors = Array(repeating: passed, count: Int.random(in: 0...9, using: &random))
            let result = bytes.withUnsafeBytes {
                DescriptorIO.sendMessage(socket.rawValue, from: $0, descriptors: descriptors)
            }
            if case .failed = result { return }
        }
    }

    /// Host programs that say nothing, or half of something.
    private static func connectSilently(_ target: Target) {
        var clients: [SharedFileDescriptor] = []
        for index in 0..<300 {
            guard
                let client = try? UnixSocket.connect(
                    to: UnixAddress(target.hybridPath), type: .stream, nonBlocking: true)
            else { break }
            if index % 2 == 0 {
                _ = Array("CONN".utf8).withUnsafeBytes { DescriptorIO.send(client.rawValue, from: $0) }
            }
            clients.append(SharedFileDescriptor(client))
        }
    }
}
