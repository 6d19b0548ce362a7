// SPDX-License-Identifier: Apache-2.0
//
// One direction of a connection between two sockets of one table: a ring of bytes, and for records a ring of their
// lengths. Senders and receivers have a lock each, so that they do not wait for each other; what one side tells the
// other are two indices:
//
//      senders' lock                                  receivers' lock
//        look for room, copy in, tail += n  ---->       copy out, head += n
//                 ^                                              |
//                 +----------------------------------------------+
//
// A receiver that looks for data for a moment offers its buffer, and what is large goes there at once (`BufferOffer`).
//
// Who has to sleep says so in `awaitedRoom` or `isAwaited` and looks once more; who moves an index looks at these
// afterwards. All four are sequentially consistent, so one of the two sees the other.
//
// Credit is what it would be with packets: unread bytes are at most the receiver's buffer.

import Synchronization
import VsockCore
import VsockWire

/// See the top of the file.
struct DirectPipe: ~Copyable, @unchecked Sendable {
    // Unchecked because of the pointers to the rings: who has either lock may use them, who has both may change them.

    /// Records that may be unread: one for so many bytes of buffer, so that their marks take an eighth of its size.
    static let bytesPerRecord = 64

    /// From this size on a copy costs more than to wait for each other.
    static let offeredByteCount = 4096
    /// From this size on it also costs more to copy twice, side by side, than to wait until the receiver has read what is
    /// before and offers its buffer. A receiver that first does something with the bytes is too late for that.
    static let rendezvousByteCount = 32_768
    /// Reads that a sender waits for then: messages of 64 KiB that are unread in a buffer of the usual size.
    private static let rendezvousReadLimit = 4

    /// Length and MSG_EOR of a record.
    private struct Mark: Sendable {
        let byteCount: Int
        let hasEndOfRecordMark: Bool
    }

    /// Memory that grows with what is unread. Both counts are powers of two, or zero.
    private struct Rings: @unchecked Sendable {
        // Unchecked: see above.
        var bytes = UnsafeMutableRawBufferPointer(start: nil, count: 0)
        var marks = UnsafeMutableBufferPointer<Mark>(start: nil, count: 0)
    }

    // Indices never wrap, places in the rings do.

    private struct Sender: Sendable {
        var rings = Rings()
        var isOpen = true
        var tail = 0
        var markTail = 0
        /// The receiver's indices as last seen.
        var head = 0
        var markHead = 0
    }

    private struct Receiver: Sendable {
        var rings = Rings()
        var isOpen = true
        var head = 0
        var markHead = 0
        /// The sender's indices as last seen.
        var tail = 0
        var markTail = 0
    }

    /// Keeps what different threads write in different cache lines, and out of each other's prefetching.
    private struct Gap {
        let words = InlineArray<16, UInt64>(repeating: 0)
    }

    /// What a send came to.
    struct SendResult {
        /// Bytes taken; of a record all or none. Nil when the pipe is closed.
        var byteCount: Int?
        /// Whether a receiver sleeps: see `SocketTable.wakeReceivers`.
        var mustWake = false
    }

    /// What a receive came to.
    struct ReceiveOutcome {
        enum Kind { case closed, empty, received }
        var kind: Kind
        var result = ReceiveResult()
        /// Whether a sender sleeps: see `SocketTable.wakeSenders`.
        var mustWake = false
    }

    let carriesRecords: Bool
    /// Bytes that may be unread.
    let capacity: Int
    private let recordLimit: Int
    private let offer = BufferOffer()
    /// Whether a receiver waits; false again when it is woken.
    private let isAwaited = Atomic<Bool>(false)
    /// Bytes of room that a sender waits for; 0 for none.
    private let awaitedRoom = Atomic<Int>(0)
    private let gap1 = Gap()
    private let senderSpin = BriefSpin()
    private let offerSpin = BriefSpin(maximumCount: 512)
    private let rendezvousSpin = BriefSpin(maximumCount: 2048)
    private let drainSpin = BriefSpin()
    private let sender = Mutex(Sender())
    private let gap2 = Gap()
    private let sentIndex = Atomic<Int>(0)
    private let sentMarkIndex = Atomic<Int>(0)
    private let gap3 = Gap()
    private let receiverSpin = BriefSpin()
    private let gatherSpin = BriefSpin(maximumCount: 4096)
    private let receiver = Mutex(Receiver())
    private let gap4 = Gap()
    private let receivedIndex = Atomic<Int>(0)
    private let receivedMarkIndex = Atomic<Int>(0)
    private let gap5 = Gap()

    /// A pipe into a buffer of `capacity` bytes.
    init(_ type: SocketType, capacity: Int) {
        carriesRecords = type == .seqpacket
        self.capacity = capacity
        recordLimit = max(8, capacity / Self.bytesPerRecord)
    }

    deinit {
        let rings = sender.withLock { $0.rings }
        rings.bytes.deallocate()
        rings.marks.deallocate()
    }

    // MARK: Sending

    /// Takes bytes of a stream, as many as there is room for, or a record, which must have a byte and fit the buffer.
    func send(_ bytes: UnsafeRawBufferPointer, hasEndOfRecordMark: Bool) -> SendResult {
        let count: Int? = sender.withLock { sender in
            guard sender.isOpen else { return nil }
            if bytes.count >= Self.offeredByteCount, let count = fillOffer(bytes, hasEndOfRecordMark, &sender) {
                return count
            }
            if !fits(bytes.count, sender) {
                sender.head = receivedIndex.load(ordering: .sequentiallyConsistent)
                sender.markHead = receivedMarkIndex.load(ordering: .acquiring)
            }
            let room = capacity - (sender.tail - sender.head)
            guard sender.markTail - sender.markHead < recordLimit, !carriesRecords || room >= bytes.count else {
                return 0
            }
            let count = min(room, bytes.count)
            guard count > 0 else { return 0 }
            if !fits(count, sender) { grow(&sender, for: count) }
            Self.copy(UnsafeRawBufferPointer(rebasing: bytes[..<count]), into: sender.rings.bytes, at: sender.tail)
            sender.tail += count
            if carriesRecords {
                sender.rings.marks[sender.markTail & (sender.rings.marks.count - 1)] = Mark(
                    byteCount: count, hasEndOfRecordMark: hasEndOfRecordMark)
                sender.markTail += 1
            }
            sentMarkIndex.store(sender.markTail, ordering: .releasing)
            sentIndex.store(sender.tail, ordering: .sequentiallyConsistent)
            return count
        }
        guard let count, count > 0 else { return SendResult(byteCount: count) }
        return SendResult(byteCount: count, mustWake: isAwaited.load(ordering: .sequentiallyConsistent))
    }

    /// Copies into the receiver's buffer, if that offers it before long, and nothing is to be read before.
    private func fillOffer(
        _ bytes: UnsafeRawBufferPointer, _ hasEndOfRecordMark: Bool, _ sender: inout Sender
    ) -> Int? {
        let tail = sender.tail
        guard
            bytes.count < Self.rendezvousByteCount
                ? spinForOffer(tail, offerSpin) : spinForOffer(tail, rendezvousSpin),
            let count = offer.fill(bytes, isRecord: carriesRecords, hasEndOfRecordMark: hasEndOfRecordMark)
        else { return nil }
        return carriesRecords ? bytes.count : count
    }

    @inline(__always)
    private func spinForOffer(_ tail: Int, _ spin: borrowing BriefSpin) -> Bool {
        spin.spin { offer.isOffered && receivedIndex.load(ordering: .relaxed) == tail }
    }

    /// Before a large message, lets the receiver read what is unread, for a moment, if it has offered its buffer lately
    /// when it was through.
    func spinForRendezvous(_ byteCount: Int) {
        guard byteCount >= Self.rendezvousByteCount, rendezvousSpin.isPromising else { return }
        for _ in 0..<Self.rendezvousReadLimit {
            let received = receivedIndex.load(ordering: .relaxed)
            guard received != sentIndex.load(ordering: .relaxed),
                drainSpin.spin(until: { receivedIndex.load(ordering: .relaxed) != received })
            else { return }
        }
    }

    /// Looks for a moment whether `byteCount` bytes can be sent after all. Room for one small record is followed by more
    /// at once: to take it before would make sender and receiver wait for each other's cache lines at every record.
    func spinForRoom(_ byteCount: Int) -> Bool {
        let wanted = max(min(byteCount, capacity), capacity / 4)
        return senderSpin.spin {
            capacity - (sentIndex.load(ordering: .relaxed) - receivedIndex.load(ordering: .relaxed)) >= wanted
                && sentMarkIndex.load(ordering: .relaxed) - receivedMarkIndex.load(ordering: .relaxed)
                    <= recordLimit - recordLimit / 4
        }
    }

    // MARK: Receiving

    /// Hands out bytes of a stream, or the first record.
    func receive(into buffer: UnsafeMutableRawBufferPointer, peeks: Bool) -> ReceiveOutcome {
        var outcome = receiver.withLock { receiver -> ReceiveOutcome in
            guard receiver.isOpen else { return ReceiveOutcome(kind: .closed) }
            if receiver.head == receiver.tail {
                receiver.tail = sentIndex.load(ordering: .sequentiallyConsistent)
                guard receiver.head != receiver.tail else { return ReceiveOutcome(kind: .empty) }
            }
            var result = ReceiveResult()
            if carriesRecords {
                let mark = receiver.rings.marks[receiver.markHead & (receiver.rings.marks.count - 1)]
                result.fullLength = mark.byteCount
                result.endOfRecord = mark.hasEndOfRecordMark
                result.count = min(mark.byteCount, buffer.count)
                result.truncated = result.count < mark.byteCount
            } else {
                // What has come meanwhile fills the buffer.
                if receiver.tail - receiver.head < buffer.count {
                    receiver.tail = sentIndex.load(ordering: .acquiring)
                }
                result.count = min(receiver.tail - receiver.head, buffer.count)
                result.fullLength = result.count
            }
            Self.copy(receiver.rings.bytes, at: receiver.head, to: buffer, count: result.count)
            guard !peeks else { return ReceiveOutcome(kind: .received, result: result) }
            receiver.head += result.fullLength
            if carriesRecords { receiver.markHead += 1 }
            receivedMarkIndex.store(receiver.markHead, ordering: .releasing)
            receivedIndex.store(receiver.head, ordering: .sequentiallyConsistent)
            return ReceiveOutcome(kind: .received, result: result)
        }
        guard outcome.kind == .received, !peeks else { return outcome }
        let awaited = awaitedRoom.load(ordering: .sequentiallyConsistent)
        outcome.mustWake = awaited > 0 && freeByteCount >= awaited
        return outcome
    }

    /// Looks for a moment whether something comes.
    func spinForData() -> Bool {
        let seen = receivedIndex.load(ordering: .relaxed)
        guard receiverSpin.spin(until: { sentIndex.load(ordering: .relaxed) != seen }) else { return false }
        gather()
        return true
    }

    /// Something has come: stays away for a moment, as long as more comes then. A receiver that takes small records one by
    /// one as they come is in its sender's way: every cache line goes to and fro for each of them.
    private func gather() {
        let seen = sentIndex.load(ordering: .relaxed)
        var lookCount = 0
        _ = gatherSpin.spin {
            lookCount += 1
            return lookCount & 2047 == 0 && sentIndex.load(ordering: .relaxed) != seen
        }
    }

    /// As ``spinForData()``, and offers the buffer meanwhile: what a sender has put there, or nil.
    func spinOffering(_ buffer: UnsafeMutableRawBufferPointer) -> ReceiveResult? {
        receiver.withLock { receiver in
            let head = receiver.head
            guard receiver.isOpen, sentIndex.load(ordering: .acquiring) == head else { return nil }
            offer.offer(buffer)
            _ = receiverSpin.spin { offer.isFilled || sentIndex.load(ordering: .relaxed) != head }
            if let result = offer.end() { return result }
            if sentIndex.load(ordering: .relaxed) != head { gather() }
            return nil
        }
    }

    // MARK: With the table's lock

    var isOpen: Bool { sender.withLock { $0.isOpen } }

    /// Bytes that wait to be received.
    var unreadByteCount: Int {
        let received = receivedIndex.load(ordering: .acquiring)
        return sentIndex.load(ordering: .sequentiallyConsistent) - received
    }

    private var freeByteCount: Int { capacity - unreadByteCount }

    /// Whether a byte could be sent, or a record of one.
    var hasRoom: Bool {
        let marks = sentMarkIndex.load(ordering: .acquiring) - receivedMarkIndex.load(ordering: .acquiring)
        return freeByteCount > 0 && marks < recordLimit
    }

    /// A receiver is going to wait: it has to look once more, and is told by `mustWake` of a send.
    func awaitData() { isAwaited.store(true, ordering: .sequentiallyConsistent) }

    /// Whether a receiver was waiting; it is to be told now.
    func takeAwaited() -> Bool { isAwaited.exchange(false, ordering: .sequentiallyConsistent) }

    /// A sender is going to wait for room: it has to look once more, and is told by `mustWake` of a receive.
    func awaitRoom(_ byteCount: Int) {
        let awaited = awaitedRoom.load(ordering: .relaxed)
        let wanted = max(1, min(byteCount, capacity))
        awaitedRoom.store(awaited > 0 ? min(awaited, wanted) : wanted, ordering: .sequentiallyConsistent)
    }

    /// Whether a sender was waiting; it is to be told now.
    func takeAwaitedRoom() -> Bool { awaitedRoom.exchange(0, ordering: .sequentiallyConsistent) > 0 }

    /// Ends the pipe: every call finds it closed. Hands what is unread to `body`, in pieces: bytes, whether a record ends
    /// with them, and whether with MSG_EOR.
    func close(_ body: (UnsafeRawBufferPointer, _ endsRecord: Bool, _ hasEndOfRecordMark: Bool) -> Void) {
        sender.withLock { sender in
            receiver.withLock { receiver in
                guard sender.isOpen else { return }
                sender.isOpen = false
                receiver.isOpen = false
                while receiver.head < sender.tail {
                    var end = sender.tail
                    var mark: Mark?
                    if carriesRecords {
                        let next = sender.rings.marks[receiver.markHead & (sender.rings.marks.count - 1)]
                        end = receiver.head + next.byteCount
                        receiver.markHead += 1
                        mark = next
                    }
                    while receiver.head < end {
                        let start = receiver.head & (sender.rings.bytes.count - 1)
                        let count = min(end - receiver.head, sender.rings.bytes.count - start)
                        receiver.head += count
                        body(
                            UnsafeRawBufferPointer(rebasing: sender.rings.bytes[start..<(start + count)]),
                            mark != nil && receiver.head == end, mark?.hasEndOfRecordMark ?? false)
                    }
                }
                sentIndex.store(receiver.head, ordering: .releasing)
                receivedIndex.store(receiver.head, ordering: .releasing)
                sender.rings.bytes.deallocate()
                sender.rings.marks.deallocate()
                sender.rings = Rings()
                receiver.rings = Rings()
            }
        }
    }

    // MARK: Rings

    /// Whether so many bytes, or a record of them, fit into the rings as they are, as far as the sender knows.
    private func fits(_ byteCount: Int, _ sender: Sender) -> Bool {
        sender.tail - sender.head + byteCount <= min(sender.rings.bytes.count, capacity)
            && (!carriesRecords || sender.markTail - sender.markHead < min(sender.rings.marks.count, recordLimit))
    }

    /// Makes room in the rings for another record of so many bytes, or bytes of a stream.
    private func grow(_ sender: inout Sender, for byteCount: Int) {
        var larger = sender.rings
        let unread = sender.tail - sender.head
        if unread + byteCount > larger.bytes.count {
            var count = max(4096, larger.bytes.count)
            while count < unread + byteCount { count *= 2 }
            larger.bytes = .allocate(byteCount: count, alignment: 64)
        }
        if carriesRecords, sender.markTail - sender.markHead >= larger.marks.count {
            larger.marks = .allocate(capacity: max(64, 2 * larger.marks.count))
        }
        receiver.withLock { receiver in
            let old = sender.rings
            if larger.bytes.baseAddress != old.bytes.baseAddress {
                var index = receiver.head
                while index < sender.tail {
                    let start = index & (old.bytes.count - 1)
                    let count = min(sender.tail - index, old.bytes.count - start)
                    Self.copy(
                        UnsafeRawBufferPointer(rebasing: old.bytes[start..<(start + count)]), into: larger.bytes,
                        at: index)
                    index += count
                }
                old.bytes.deallocate()
            }
            if larger.marks.baseAddress != old.marks.baseAddress {
                for index in receiver.markHead..<sender.markTail {
                    larger.marks[index & (larger.marks.count - 1)] = old.marks[index & (old.marks.count - 1)]
                }
                old.marks.deallocate()
            }
            receiver.rings = larger
        }
        sender.rings = larger
    }

    private static func copy(
        _ bytes: UnsafeRawBufferPointer, into ring: UnsafeMutableRawBufferPointer, at index: Int
    ) {
        guard let source = bytes.baseAddress, let target = ring.baseAddress else { return }
        let start = index & (ring.count - 1)
        let first = min(bytes.count, ring.count - start)
        (target + start).copyMemory(from: source, byteCount: first)
        if first < bytes.count { target.copyMemory(from: source + first, byteCount: bytes.count - first) }
    }

    private static func copy(
        _ ring: UnsafeMutableRawBufferPointer, at index: Int, to buffer: UnsafeMutableRawBufferPointer, count: Int
    ) {
        guard count > 0, let source = ring.baseAddress, let target = buffer.baseAddress else { return }
        let start = index & (ring.count - 1)
        let first = min(count, ring.count - start)
        target.copyMemory(from: source + start, byteCount: first)
        if first < count { (target + first).copyMemory(from: source, byteCount: count - first) }
    }
}
