// SPDX-License-Identifier: Apache-2.0
//
// The guest's driver: packets from the device to the core, packets of the core to the device.

import VirtioQueue
import VsockCore
import VsockTestSupport
import VsockWire

extension SimulatedGuest {
    /// Takes and gives at most `budget` packets each way.
    func run(_ random: inout PRNG, budget: Int) {
        guard isRunning, !isBroken else { return }
        do throws(VirtqueueError) {
            try receive(budget)
            try reclaim()
        } catch {
            observer.violation("guest \(options.cid): the device breaks a ring: \(error)")
            isBroken = true
            return
        }
        transmit(budget, &random)
        if receiveRing.publish() { observer.kick(self, queue: 0) }
        if transmitRing.publish() { observer.kick(self, queue: 1) }
    }

    /// Gives the device at most `count` receive buffers.
    func postBuffers(_ count: Int) {
        guard isRunning, !isBroken else { return }
        for _ in 0..<count {
            guard let slot = receiveRing.takeSlot() else { break }
            guard receiveRing.add(slot, byteCount: receiveRing.slot(slot).count, isWritable: true) else { break }
        }
        if receiveRing.publish() { observer.kick(self, queue: 0) }
    }

    // MARK: From the device

    private func receive(_ budget: Int) throws(VirtqueueError) {
        guard receiveRing.beginPolling() else { return }
        var count = 0
        while count < budget, endpoint.canReceive {
            guard let (slot, byteCount) = try receiveRing.pop() else {
                return receiveRing.endPolling(isBusy: false)
            }
            count += 1
            let bytes = UnsafeRawBufferPointer(receiveRing.slot(slot))
            take(UnsafeRawBufferPointer(rebasing: bytes[..<byteCount]))
            receiveRing.free(slot)
        }
        receiveRing.endPolling(isBusy: true)
    }

    private func take(_ bytes: UnsafeRawBufferPointer) {
        // Length 0 returns a chain that the device has no use for; this driver posts none.
        guard bytes.count >= PacketHeader.byteCount, var header = PacketHeader(bytes) else {
            return observer.violation("guest \(options.cid): the device returns \(bytes.count) bytes for a packet")
        }
        let payload = UnsafeRawBufferPointer(rebasing: bytes[PacketHeader.byteCount...])
        guard payload.count == Int(header.payloadByteCount) else {
            return observer.violation(
                "guest \(options.cid): a packet of \(header.payloadByteCount) bytes comes with \(payload.count)")
        }
        mutator.fromDevice(&header)
        observer.packetCrossed(header, self, fromGuest: false)
        handle(endpoint.receive(header, marker: SequenceHeader(header, payload), now: observer.now), header, payload)
    }

    // MARK: To the device

    private func reclaim() throws(VirtqueueError) {
        guard transmitRing.beginPolling() else { return }
        while let (slot, _) = try transmitRing.pop() { transmitRing.free(slot) }
        transmitRing.endPolling(isBusy: false)
    }

    private func transmit(_ budget: Int, _ random: inout PRNG) {
        var left = budget
        if isMisbehaving { sendNonsense(&random) }
        while left > 0, endpoint.hasControlPackets, let slot = transmitRing.takeSlot() {
            guard let header = endpoint.nextControlPacket() else {
                transmitRing.free(slot)
                break
            }
            left -= 1
            send(header, [], slot)
        }
        while let id = endpoint.nextWritable() { socket(id)?.isBlocked = false }
        for case let socket? in sockets {
            while left > 0, let slot = transmitRing.takeSlot() {
                guard let (header, bytes) = nextPacket(socket) else {
                    transmitRing.free(slot)
                    break
                }
                left -= 1
                send(header, bytes, slot)
            }
        }
    }

    func send(_ header: PacketHeader, _ payload: [UInt8], _ slot: Int) {
        observer.packetCrossed(header, self, fromGuest: true)
        guard mutator.heeds(header) else { return transmitRing.free(slot) }
        let area = transmitRing.slot(slot)
        header.write(to: area)
        UnsafeMutableRawBufferPointer(rebasing: area[PacketHeader.byteCount...]).copyBytes(from: payload)
        if !transmitRing.add(slot, byteCount: PacketHeader.byteCount + payload.count, isWritable: false) {
            observer.violation("guest \(options.cid): no descriptor for a slot that is free")
        }
    }

    // MARK: Nonsense

    private func sendNonsense(_ random: inout PRNG) {
        guard random.chance(percent: 30) else { return }
        if random.chance(percent: 10) {
            // Too short for a packet, longer than the memory, or empty.
            _ = transmitRing.addBroken(byteCount: random.pick([0, 1, 43, .max, 1 << 30]))
            return
        }
        guard let slot = transmitRing.takeSlot() else { return }
        let operations: [UInt16] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 200, .max]
        let ports: [UInt32] = [0, 1, 10_000, 10_001, 20_000, 20_001, 0x4000_0000, 0x4000_0001, .max]
        let count = random.below(min(200, options.rings.transmitPayload) + 1)
        let header = PacketHeader(
            sourceCID: random.chance(percent: 90) ? UInt64(options.cid) : random.next(),
            destinationCID: random.pick([2, 3, 4, 5, 77, 1 << 40]), sourcePort: random.pick(ports),
            destinationPort: random.pick(ports),
            payloadByteCount: random.chance(percent: 80) ? UInt32(count) : UInt32(truncatingIfNeeded: random.next()),
            type: SocketType(rawValue: random.pick([1, 1, 2, 2, 3])),
            operation: Operation(rawValue: random.pick(operations)), flags: UInt32(random.below(8)),
            bufferAllocation: random.pick([0, 1, 4096, .max]),
            forwardedCount: random.pick([0, 1, 5000, .max]))
        send(header, [UInt8](repeating: 0xee, count: count), slot)
    }
}

extension SequenceHeader {
    /// The marker in the payload of a SEQ_BEGIN or SEQ_END; nil for any other packet.
    fileprivate init?(_ header: PacketHeader, _ payload: UnsafeRawBufferPointer) {
        guard header.operation == .sequenceBegin || header.operation == .sequenceEnd else { return nil }
        self.init(payload)
    }
}
