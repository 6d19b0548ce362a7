// SPDX-License-Identifier: Apache-2.0
//
// From the guest to host programs. Payload of consecutive packets of one connection is gathered and leaves in one
// writev(2) or, for a record, one sendmsg(2) straight from guest memory. What the socket does not take goes to the
// backlog, and from there when the socket is writable again.
//
// Bytes are consumed (their credit returned) when they have left. In a framing whose records may be larger than the
// buffer, a record that is not complete must be consumed earlier: what exceeds half of the buffer is, so that a
// host program which does not read still holds the guest back.
//
// Of a stream that flows, the credit of a batch is returned just before it is written. The guest goes on meanwhile, and,
// what matters more, it is awake: the write wakes the host program, and the kernel wakes whoever it can on a processor that
// is idle. A program that stays on the device's processor reads from its cache, for two thirds of the cost. So at most one
// batch more than the guest's credit can be in the backlog.

import VirtioQueue
import VsockCore
import VsockSystem
import VsockWire

extension HybridHost {
    /// Bytes of a stream whose credit is returned before they are written, unless a quarter of the guest's credit is less.
    private static var earlyCreditByteCount: Int { 64 * 1024 }

    /// Takes the payload of one packet as its verdict says.
    func deliver(
        _ socket: HostSocket, _ verdict: PayloadVerdict, payload: Range<Int>, in segments: borrowing SegmentList
    ) {
        if verdict.discardsUnfinishedRecord { discardOpenRecord(socket) }
        if verdict.deliversPayload {
            if gatheringSocket !== socket {
                flush()
                gatheringSocket = socket
            }
            for index in payload { gather(segments[index], for: socket) }
        }
        if verdict.endsRecord { endRecord(socket) }
    }

    private func gather(_ segment: MemorySegment, for socket: HostSocket) {
        guard !gathering.append(segment) else { return }
        // The records that are complete make room. A packet may have more segments than one system call takes.
        if gathering.recordCount > 0 { sendRecords(socket) } else { flush() }
        gatheringSocket = socket
        if !gathering.append(segment) {
            flush()
            gatheringSocket = socket
            _ = gathering.append(segment)
        }
    }

    func returnCreditEarly(into buffers: GuestBuffers) throws(VirtqueueError) {
        let minimumByteCount = min(Self.earlyCreditByteCount, Int(endpoint.configuration.bufferByteCount / 4))
        guard let socket = gatheringSocket, socket.type == .stream, gathering.byteCount >= minimumByteCount,
            socket.backlog.isEmpty, socket.isWritable, !socket.isWriteClosed
        else { return }
        socket.consumedAheadByteCount = gathering.byteCount
        endpoint.consume(socket.id, byteCount: gathering.byteCount)
        // Without buffers it goes with what comes later.
        if endpoint.owesCreditUpdate(socket.id) { _ = try buffers.transmitControl(of: &endpoint) }
    }

    /// Writes what was gathered; afterwards guest memory is no longer needed.
    func flush() {
        guard let socket = gatheringSocket else { return }
        defer {
            gatheringSocket = nil
            gathering.removeAll()
        }
        if gathering.recordCount > 0 { sendRecords(socket) }
        guard gathering.byteCount > 0 else { return }
        guard !memoryLoss.hasHappened else { return abortForLostMemory(socket) }
        guard !socket.isWriteClosed else { return consume(socket, byteCount: gathering.byteCount) }
        guard socket.type == .stream, socket.backlog.isEmpty, socket.isWritable else {
            return appendToBacklog(socket, from: 0)
        }
        let result = gathering.segments.withVectors {
            DescriptorIO.sendMessage(socket.descriptor.rawValue, from: $0, count: $1)
        }
        switch result {
        case .count(let count):
            consume(socket, byteCount: count)
            if count < gathering.byteCount { appendToBacklog(socket, from: count) }
        case .wouldBlock:
            appendToBacklog(socket, from: 0)
        case .failed(let errno):
            consume(socket, byteCount: gathering.byteCount)
            writeFailed(socket, errno)
        }
    }

    /// Writes as much of the backlog as the socket takes.
    func drainBacklog(_ socket: HostSocket) {
        while socket.isWritable, !socket.isWriteClosed {
            let result: IOResult
            if socket.type == .stream {
                guard socket.backlog.byteCount > 0 else { break }
                result = DescriptorIO.send(socket.descriptor.rawValue, from: socket.backlog.bytes)
            } else {
                guard socket.backlog.hasRecord else { break }
                let record = socket.backlog.bytes.prefix(socket.backlog.firstRecordByteCount)
                result = DescriptorIO.send(socket.descriptor.rawValue, from: UnsafeRawBufferPointer(rebasing: record))
            }
            switch result {
            case .count(let count) where socket.type == .stream:
                socket.backlog.removeFirst(count)
                consume(socket, byteCount: count)
            case .count:
                let count = socket.backlog.firstRecordByteCount
                let early = socket.backlog.removeFirstRecord()
                endpoint.consume(socket.id, byteCount: count - early)
            case .wouldBlock:
                blockWriting(socket)
            case .failed(let errno):
                writeFailed(socket, errno)
            }
        }
        backlogDrained(socket)
    }

    // MARK: Records

    private func endRecord(_ socket: HostSocket) {
        if gatheringSocket === socket, socket.backlog.isEmpty, socket.isWritable, !socket.isWriteClosed {
            // The whole record lies in guest memory, and nothing is before it but others like it.
            if !gathering.endRecord() {
                sendRecords(socket)
                if gatheringSocket === socket, !gathering.endRecord() { endRecordInBacklog(socket) }
            }
        } else {
            endRecordInBacklog(socket)
        }
    }

    private func endRecordInBacklog(_ socket: HostSocket) {
        flush()
        guard !socket.isWriteClosed else { return }
        socket.backlog.endRecord(consumedByteCount: socket.consumedAheadByteCount)
        socket.consumedAheadByteCount = 0
        guard socket.backlog.recordCount <= limits[.queuedRecords] else {
            limits.reached(.queuedRecords, now: loop.now)
            return abort(socket, "the host program does not read so many records")
        }
        drainBacklog(socket)
    }

    /// Sends the complete records that were gathered, in one call if the socket takes them all; what it does not take
    /// goes to the backlog. The beginning of a record that goes on stays gathered.
    private func sendRecords(_ socket: HostSocket) {
        guard !memoryLoss.hasHappened else { return abortForLostMemory(socket) }
        var sent = 0
        while sent < gathering.recordCount, !socket.isWriteClosed {
            switch gathering.send(socket.descriptor.rawValue, from: sent) {
            case .count(let count):
                endpoint.consume(socket.id, byteCount: gathering.byteCount(ofRecords: sent..<(sent + count)))
                sent += count
            case .wouldBlock:
                for index in sent..<gathering.recordCount {
                    for segment in gathering.segments(ofRecord: index) {
                        socket.backlog.append(gathering.bytes(segment), isRecord: true)
                    }
                    socket.backlog.endRecord(consumedByteCount: 0)
                }
                gathering.removeRecords()
                guard !memoryLoss.hasHappened else { return abortForLostMemory(socket) }
                return blockWriting(socket)
            case .failed(let errno):
                endpoint.consume(
                    socket.id, byteCount: gathering.byteCount(ofRecords: sent..<gathering.recordCount))
                gathering.removeRecords()
                return writeFailed(socket, errno)
            }
        }
        endpoint.consume(socket.id, byteCount: gathering.byteCount(ofRecords: sent..<gathering.recordCount))
        gathering.removeRecords()
    }

    private func discardOpenRecord(_ socket: HostSocket) {
        flush()
        let count = socket.backlog.openRecordByteCount
        socket.backlog.discardOpenRecord()
        consume(socket, byteCount: count)
    }

    // MARK: Backlog

    private func appendToBacklog(_ socket: HostSocket, from start: Int) {
        var skip = start
        for index in 0..<gathering.segments.count {
            let segment = gathering.segments[index]
            guard skip < segment.count else {
                skip -= segment.count
                continue
            }
            let bytes = UnsafeRawBufferPointer(start: segment.base + skip, count: segment.count - skip)
            socket.backlog.append(bytes, isRecord: socket.type == .seqpacket)
            skip = 0
        }
        guard !memoryLoss.hasHappened else { return abortForLostMemory(socket) }
        if socket.type == .stream {
            blockWriting(socket)
        } else if endpoint.configuration.framing.consumesUnfinishedRecords {
            consumeOpenRecord(socket)
        }
        if socket.backlog.openRecordByteCount > socket.maximumRecordByteCount {
            abort(socket, "a record is larger than the host socket can carry")
        }
    }

    /// Bytes have left, or never will: the next of a stream, or what is held of records, the open one included.
    func consume(_ socket: HostSocket, byteCount: Int) {
        let ahead = min(socket.consumedAheadByteCount, byteCount)
        socket.consumedAheadByteCount -= ahead
        endpoint.consume(socket.id, byteCount: byteCount - ahead)
    }

    private func consumeOpenRecord(_ socket: HostSocket) {
        let held = socket.backlog.openRecordByteCount - socket.consumedAheadByteCount
        let excess = held - Int(endpoint.configuration.bufferByteCount / 2)
        guard excess > 0 else { return }
        socket.consumedAheadByteCount += excess
        endpoint.consume(socket.id, byteCount: excess)
    }

    private func blockWriting(_ socket: HostSocket) {
        guard socket.isWritable else { return }
        socket.isWritable = false
        updateInterest(socket)
    }

    private func writeFailed(_ socket: HostSocket, _ errno: Errno) {
        switch errno {
        case .messageTooLong:
            abort(socket, "a record is larger than the host socket can carry")
        case .badAddress:
            abortForLostMemory(socket)
        default:
            // EPIPE: the host program has closed or shut its receiving side. The guest must not go on sending.
            stopWriting(socket)
            endpoint.shutdown(socket.id, .receive)
            enqueue(socket)
        }
    }
}

extension SegmentList {
    /// The segments as the `iovec`s that they are laid out as.
    borrowing func withVectors<Result>(_ body: (UnsafePointer<IOVector>, Int) -> Result) -> Result {
        baseAddress.withMemoryRebound(to: IOVector.self, capacity: max(1, count)) { body($0, count) }
    }
}
