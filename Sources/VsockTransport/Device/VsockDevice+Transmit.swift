// SPDX-License-Identifier: Apache-2.0
//
// Packets from the guest: the driver's transmit queue. A packet is a run of bytes over a chain of any shape: header
// and payload may share a descriptor, split it or span several (virtio 1.3 "Message Framing").
//
// Chains are taken in batches. Their payload is used in place, so they are returned only after the host's sockets
// have been written to; then once for the whole batch.

import Logging
import VirtioQueue
import VsockCore
import VsockSystem
import VsockWire

extension VsockDevice {
    /// Chains taken before the receive queue has its turn.
    private static var batchCount: Int { 256 }
    /// Bytes taken before that: the guest sends on while the next batch is written, instead of waiting for the credit of
    /// all that it may have in flight.
    private static var batchByteCount: Int { 128 * 1024 }
    /// Bytes that a batch can have: the last packet may begin just before that.
    static var largestBatchByteCount: Int { batchByteCount + Int(PacketHeader.maximumPayloadByteCount) }
    /// What counts as so many bytes because it takes as long: opening or closing a socket, or a walk along a chain that
    /// leads nowhere.
    private static var sideWorkByteCount: Int { 8 * 1024 }

    /// Takes a batch of packets from the guest; true when there are more.
    func processTransmitQueue() -> Bool {
        guard let queue = transmitQueue, let memory else { return false }
        queue.ring.disableKicks()
        var hasMore = false
        do throws(VirtqueueError) {
            hasMore = try takeBatch(queue, memory)
        } catch {
            finishBatch(queue)
            queueBroke(QueueIndex.transmit, error)
            return false
        }
        guard returnCreditEarly() else {
            segments.removeAll()
            return false
        }
        finishBatch(queue)
        guard !hasMore else { return true }
        // Without room for replies, packets wait until the guest has taken some.
        waitsForReplies = !hostSide.canReceive
        return waitsForReplies ? false : queue.ring.enableKicks()
    }

    /// Takes packets of about `byteCount` bytes on the thread of a caller, inside of `exclusively`; whether there were
    /// any. Kicks stay as they are.
    func pollTransmitQueue(byteCount: Int) throws(VirtqueueError) -> Bool {
        guard takesPackets, let queue = transmitQueue, let memory, queue.ring.availableCount > 0 else { return false }
        let start = queue.ring.nextAvailableIndex
        defer {
            returnChains(queue)
            // The thread of the loop is another one, and may sleep.
            if queue.ring.needsNotification() { interrupt() }
        }
        _ = try takeBatch(queue, memory, byteLimit: min(byteCount, Self.batchByteCount))
        return queue.ring.nextAvailableIndex != start
    }

    /// What only the loop may do about the chains of a batch.
    func reportLongChains() {
        for _ in 0..<unreportedLongChainCount { limits.reached(.chainSegments, now: loop.now) }
        unreportedLongChainCount = 0
    }

    private func takeBatch(
        _ queue: RunningQueue, _ memory: GuestMemory, byteLimit: Int = batchByteCount
    ) throws(VirtqueueError) -> Bool {
        var byteCount = 0
        for _ in 0..<Self.batchCount where byteCount < byteLimit {
            guard hostSide.canReceive, !memoryLoss.hasHappened else { return false }
            switch try queue.ring.next(memory: memory, into: &segments) {
            case .empty:
                return false
            case .full:
                return true
            case .malformed(let head):
                log.debug("malformed chain", metadata: ["head": "\(head)"])
                counters.malformedChains += 1
                if queue.ring.lastDefect == .tooManySegments { unreportedLongChainCount += 1 }
                queue.ring.addUsed(head: head, writtenByteCount: 0)
                byteCount += Self.sideWorkByteCount
            case .chain(let chain):
                byteCount += chain.readableByteCount
                if receive(chain) { byteCount += Self.sideWorkByteCount }
                // Shown to the driver with the batch: until then its memory is in use.
                queue.ring.addUsed(head: chain.head, writtenByteCount: 0)
            }
        }
        return true
    }

    private func finishBatch(_ queue: RunningQueue) {
        returnChains(queue)
        let count = queue.ring.undecidedCount
        // Without indirect descriptors the queue is full long before a quarter of its entries are heads of chains.
        let limit = queue.ring.usesIndirectDescriptors ? Int(queue.ring.size) / 4 : 1
        if count > 0, interrupts.isDue(for: count, limit: limit, now: loop.now) { decideInterrupt(queue) }
    }

    private func returnChains(_ queue: RunningQueue) {
        hostSide.flush()
        segments.removeAll()
        queue.ring.publishUsed()
    }

    /// Tells the driver that it has its packets back, if it wants to know.
    func decideInterrupt(_ queue: RunningQueue) {
        let isNeeded = queue.ring.needsNotification()
        interrupts.decided(isNeeded, now: loop.now)
        if isNeeded { interrupt() }
    }

    /// Signals the call descriptor of the transmit queue.
    func interrupt() {
        counters.notifications += 1
        frontend?.notify(queue: QueueIndex.transmit)
    }

    /// Whether it was about a connection as such.
    private func receive(_ chain: DescriptorChain) -> Bool {
        guard let header = readHeader(chain),
            header.payloadByteCount <= PacketHeader.maximumPayloadByteCount,
            let payload = payloadSegments(chain, byteCount: Int(header.payloadByteCount))
        else {
            counters.malformedChains += 1
            log.debug("chain without a packet", metadata: ["bytes": "\(chain.readableByteCount)"])
            return false
        }
        if header.payloadByteCount > 0 { alternation.sawPayload(.toHost) }
        let marker = segments.withUnsafeBuffer(payload) { SequenceHeader(header, payload: $0) }
        if let tap { segments.withUnsafeBuffer(payload) { tap.packet(header, $0, isOutgoing: false) } }
        hostSide.receive(header, marker: marker, payload: payload, in: segments)
        return header.operation == .request || header.operation == .reset || header.operation == .shutdown
    }

    /// Copies the header out of guest memory; everything is decided on the copy.
    private func readHeader(_ chain: DescriptorChain) -> PacketHeader? {
        guard chain.readableByteCount >= PacketHeader.byteCount else { return nil }
        let first = segments[chain.readable.lowerBound]
        if first.count >= PacketHeader.byteCount {
            return PacketHeader(UnsafeRawBufferPointer(start: first.base, count: PacketHeader.byteCount))
        }
        return withUnsafeTemporaryAllocation(byteCount: PacketHeader.byteCount, alignment: 8) { bytes in
            copyOut(chain.readable, to: bytes)
            return PacketHeader(UnsafeRawBufferPointer(bytes))
        }
    }

    private func copyOut(_ range: Range<Int>, to bytes: UnsafeMutableRawBufferPointer) {
        var offset = 0
        for index in range where offset < bytes.count {
            let segment = segments[index]
            let count = min(segment.count, bytes.count - offset)
            bytes.baseAddress?.advanced(by: offset).copyMemory(from: segment.base, byteCount: count)
            offset += count
        }
    }

    /// The segments of the payload: what follows the header, cut to `byteCount` bytes. Nil when the chain is shorter.
    private func payloadSegments(_ chain: DescriptorChain, byteCount: Int) -> Range<Int>? {
        guard chain.readableByteCount - PacketHeader.byteCount >= byteCount else { return nil }
        var index = chain.readable.lowerBound
        var skip = PacketHeader.byteCount
        while skip > 0, skip >= segments[index].count {
            skip -= segments[index].count
            index += 1
        }
        let start = index
        var remaining = byteCount
        while remaining > 0 {
            let segment = segments[index]
            let count = min(segment.count - skip, remaining)
            segments.baseAddress[index] = MemorySegment(base: segment.base + skip, count: count)
            skip = 0
            remaining -= count
            index += 1
        }
        return start..<index
    }
}
