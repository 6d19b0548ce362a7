// SPDX-License-Identifier: Apache-2.0
//
// Garbage: whatever arrives on the socket, a session refuses or accepts it, and keeps its invariants. The seed of a
// failing case is part of the failure.

import Testing
import VhostUser

@Suite("Hostile messages")
struct HostileMessageTests {
    /// A number of the kind that breaks parsers.
    static func number(_ random: inout SeededGenerator) -> UInt64 {
        let edges: [UInt64] = [
            0, 1, 2, 3, 7, 8, 9, 40, 255, 256, 257, 1024, 65535, 65536, 1 << 31, UInt64(UInt32.max), 1 << 32, 1 << 63,
            .max - 1, .max,
        ]
        return Bool.random(using: &random) ? edges.randomElement(using: &random) ?? 0 : random.next()
    }

    static func garbage(_ random: inout SeededGenerator) -> [UInt8] {
        var bytes: [UInt8] = []
        let count = [0, 1, 7, 8, 9, 12, 16, 39, 40, 48, 72, 264, 300, 4096].randomElement(using: &random) ?? 0
        while bytes.count < count {
            let word = number(&random)
            let width = Bool.random(using: &random) ? 4 : 8
            for byte in 0..<width { bytes.append(UInt8(truncatingIfNeeded: word >> UInt64(8 * byte))) }
        }
        return Array(bytes.prefix(count))
    }

    /// A request that a front-end might send, with arguments that may be out of range; often damaged in a few bytes.
    static func nearlyLegal(_ random: inout SeededGenerator) -> (message: [UInt8], descriptorCount: Int) {
        let queue = Int.random(in: 0...3, using: &random)
        let flag = Bool.random(using: &random)
        let slot = UInt64.random(in: 0...5, using: &random)
        let region = MemoryRegion(
            guestAddress: slot << 12, byteCount: UInt64.random(in: 1...5, using: &random) << 11,
            userAddress: slot << 12, mmapOffset: number(&random) >> 8)
        let address = VringAddress(
            descriptorTable: number(&random), usedRing: number(&random), availableRing: number(&random))
        let protocolFeatures = ProtocolFeatures.ofSocketDevice.rawValue & random.next() | (slot == 0 ? 1 << 14 : 0)
        let requests: [FrontendRequest] = [
            .setFeatures((1 << 32 | 1 << 30 | 1 << 1) & random.next()),
            .setProtocolFeatures(ProtocolFeatures(rawValue: protocolFeatures)),
            .setOwner, .resetOwner, .getQueueBase(queue: queue), .setQueueBase(queue: queue, UInt16.max),
            .setMemoryTable([region]), .setMemoryTable([region, .low]), .addMemoryRegion(region),
            .removeMemoryRegion(region), .setQueueSize(queue: queue, size: 1 << Int.random(in: 0...12, using: &random)),
            .setQueueAddresses(queue: queue, address), .setKick(queue: queue, hasDescriptor: flag),
            .setCall(queue: queue, hasDescriptor: flag), .setQueueEnabled(queue: queue, flag), .kick(queue: queue),
            .setBackendChannel, .getConfiguration(offset: queue, byteCount: 8), .setStatus(UInt8(slot)),
            .setConfiguration(offset: queue, bytes: [1, 2, 3, 4, 5, 6], isMigration: flag), .resetDevice,
        ]
        let message = (requests.randomElement(using: &random) ?? .setOwner).message(needsReply: flag)
        var bytes = message.bytes
        if UInt8.random(in: 0...3, using: &random) == 0, bytes.count > 12 {
            bytes[Int.random(in: 12..<bytes.count, using: &random)] = UInt8(truncatingIfNeeded: random.next())
        }
        return (bytes, message.descriptorCount)
    }

    static func checkInvariants(_ session: BackendSession, seed: UInt64) {
        for (index, region) in session.memoryRegions.enumerated() {
            #expect(region.byteCount > 0 && region.guestAddress <= .max - region.byteCount, "seed \(seed)")
            for other in session.memoryRegions[..<index] {
                #expect(
                    region.guestAddress >= other.guestAddress + other.byteCount
                        || other.guestAddress >= region.guestAddress + region.byteCount, "seed \(seed)")
            }
        }
        #expect(session.memoryRegions.count <= session.configuration.maxMemorySlots, "seed \(seed)")
        #expect(session.features & ~session.configuration.features == 0, "seed \(seed)")
        #expect(session.protocolFeatures.isSubset(of: session.configuration.protocolFeatures), "seed \(seed)")
        #expect(session.deviceConfiguration.count == 8, "seed \(seed)")
        for queue in session.queues {
            #expect(queue.size <= 1024 && queue.size.nonzeroBitCount <= 1, "seed \(seed)")
            #expect(!queue.isRunning || queue.isConfigured, "seed \(seed)")
        }
    }

    static func checkReply(_ reply: OutgoingMessage, to header: MessageHeader, seed: UInt64) throws {
        let answered = try VhostUserTests.header(reply.bytes)
        #expect(answered.flags == 5 && answered.request == header.request, "seed \(seed)")
        #expect(reply.bytes.count == 12 + answered.payloadByteCount, "seed \(seed)")
        #expect(reply.descriptorCount == 0, "seed \(seed)")
    }

    @Test("a back-end survives any sequence of messages", arguments: 0..<40 as Range<UInt64>)
    func backend(_ seed: UInt64) throws {
        var random = SeededGenerator(state: seed)
        var session = BackendSession.socketDevice(
            ProtocolFeatures(rawValue: Bool.random(using: &random) ? .max : ProtocolFeatures.ofSocketDevice.rawValue),
            maxMemorySlots: 4)
        var accepted = 0
        for _ in 0..<1000 {
            var (message, descriptorCount) = Self.nearlyLegal(&random)
            if Bool.random(using: &random) {
                let flags = UInt32.random(in: 0...15, using: &random) | 1
                message = rawMessage(
                    UInt32.random(in: 0...46, using: &random), flags: flags, payload: Self.garbage(&random))
                descriptorCount = Int.random(in: 0...9, using: &random)
            }
            guard let header = try? header(message) else { continue }
            let body = payload(message)
            do {
                let request = try session.receive(header, payload: body.span.bytes, descriptorCount: descriptorCount)
                #expect(request.claimedDescriptorCount <= descriptorCount, "seed \(seed)")
                accepted += 1
                let results: [BackendResult] = [.success, .success, .failure, .queueBase(UInt16.max)]
                let reply = session.complete(request, results.randomElement(using: &random) ?? .success)
                if let reply { try Self.checkReply(reply, to: header, seed: seed) }
                #expect(reply != nil || !request.type.hasOwnReply, "seed \(seed)")
            } catch let error as VhostUserError {
                #expect(!error.description.isEmpty)
                if let reply = session.refuse(header, error) { try Self.checkReply(reply, to: header, seed: seed) }
            }
            Self.checkInvariants(session, seed: seed)
        }
        #expect(accepted > 150, "seed \(seed): the garbage is too easily refused to test anything")
    }

    @Test("a front-end survives any reply", arguments: 0..<20 as Range<UInt64>)
    func frontend(_ seed: UInt64) {
        var random = SeededGenerator(state: seed)
        let requests: [FrontendRequest] = [
            .getFeatures, .getProtocolFeatures, .getQueueCount, .getMaxMemorySlots, .getQueueBase(queue: 1),
            .getStatus, .getConfiguration(offset: 0, byteCount: 8), .getConfiguration(offset: 4, byteCount: 4),
        ]
        var accepted = 0
        for _ in 0..<1000 {
            var session = FrontendSession()
            guard let request = requests.randomElement(using: &random) else { return }
            _ = session.send(request)
            let body = Self.garbage(&random)
            var header = MessageHeader(request: request.type.rawValue, isReply: true, payloadByteCount: body.count)
            if UInt8.random(in: 0...9, using: &random) == 0 { header.flags = UInt32.random(in: 0...15, using: &random) }
            do throws(VhostUserError) {
                _ = try session.receive(
                    header, payload: body.span.bytes, descriptorCount: Int.random(in: 0...1, using: &random))
                accepted += 1
            } catch {
                #expect(!error.description.isEmpty)
            }
        }
        #expect(accepted > 50, "seed \(seed)")
    }

    @Test("a channel of the back-end that sends garbage is refused", arguments: 0..<10 as Range<UInt64>)
    func backendChannel(_ seed: UInt64) {
        var random = SeededGenerator(state: seed)
        for _ in 0..<1000 {
            let body = Self.garbage(&random)
            var header = MessageHeader(request: UInt32.random(in: 0...12, using: &random), payloadByteCount: body.count)
            header.flags = UInt32.random(in: 0...15, using: &random)
            do throws(VhostUserError) {
                let notification = try BackendNotification(
                    header, payload: body.span.bytes, descriptorCount: Int.random(in: 0...1, using: &random))
                #expect(notification.message().bytes.count >= 12)
            } catch {
                #expect(!error.description.isEmpty)
            }
        }
    }

    @Test("a reader survives a stream of garbage in pieces of any size", arguments: 0..<20 as Range<UInt64>)
    func reader(_ seed: UInt64) {
        var random = SeededGenerator(state: seed)
        for _ in 0..<100 {
            var reader = MessageReader()
            var fed = 0
            do throws(VhostUserError) {
                while fed < 20_000 {
                    let size = Int.random(in: 1...5000, using: &random)
                    let bytes = (0..<size).map { _ in UInt8.random(in: 0...2, using: &random) }
                    let message = try reader.fill { room in
                        let piece = bytes.prefix(room.count)
                        room.copyBytes(from: piece)
                        fed += piece.count
                        return piece.count
                    }
                    if let message { #expect(message.payload.count == message.header.payloadByteCount, "seed \(seed)") }
                    #expect(reader.bytesNeeded > 0, "seed \(seed)")
                }
            } catch {
                #expect(!error.isRefusal, "seed \(seed)")
            }
        }
    }
}
