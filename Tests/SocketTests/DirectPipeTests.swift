// SPDX-License-Identifier: Apache-2.0
//
// The pipe below two sockets of a loopback: what goes in comes out, within the buffer, whatever the sizes; and who
// sleeps is told. Sockets with a pipe are what most other tests of sockets run over.

import Testing
import VsockCore
import VsockTestSupport
import VsockWire

@testable import VsockTransport

@Suite("Direct pipe")
struct DirectPipeTests {
    /// Sends `count` bytes that count on from `start`.
    private func send(_ pipe: borrowing DirectPipe, _ start: Int, _ count: Int, mark: Bool = false) -> Int? {
        (start..<(start + count)).map { UInt8(truncatingIfNeeded: $0) }.withUnsafeBytes {
            pipe.send($0, hasEndOfRecordMark: mark).byteCount
        }
    }

    private func receive(
        _ pipe: borrowing DirectPipe, _ room: Int, peeks: Bool = false
    ) -> (outcome: DirectPipe.ReceiveOutcome, bytes: [UInt8]) {
        var buffer = [UInt8](repeating: 0, count: room)
        let outcome = buffer.withUnsafeMutableBytes { pipe.receive(into: $0, peeks: peeks) }
        return (outcome, Array(buffer[..<outcome.result.count]))
    }

    @Test(
        "a stream's bytes come out in order, within the buffer, in pieces of any size",
        arguments: 0..<20 as Range<UInt64>)
    func stream(seed: UInt64) {
        var random = PRNG(seed: seed)
        let capacity = random.pick([1, 100, 4096, 5000, 70_000])
        let pipe = DirectPipe(.stream, capacity: capacity)
        var sent = 0
        var received = 0
        for _ in 0..<500 {
            let size = random.within(1...(capacity + capacity / 2))
            if random.chance(percent: 50) {
                let count = send(pipe, sent, size)
                #expect(count == min(size, capacity - (sent - received)), "seed \(seed)")
                sent += count ?? 0
            } else {
                let (outcome, bytes) = receive(pipe, size)
                #expect(outcome.kind == (sent == received ? .empty : .received), "seed \(seed)")
                #expect(bytes == (received..<min(received + size, sent)).map { UInt8(truncatingIfNeeded: $0) })
                received += bytes.count
            }
            let unread = pipe.unreadByteCount
            #expect(unread == sent - received)
        }
    }

    @Test("records come out whole, with their marks, cut where the buffer ends", arguments: 0..<20 as Range<UInt64>)
    func records(seed: UInt64) {
        var random = PRNG(seed: seed)
        let capacity = random.pick([100, 4096, 5000, 70_000])
        let limit = max(8, capacity / DirectPipe.bytesPerRecord)
        let pipe = DirectPipe(.seqpacket, capacity: capacity)
        var queue: [(start: Int, count: Int, mark: Bool)] = []
        var sent = 0
        for _ in 0..<1000 {
            let size = random.chance(percent: 70) ? random.within(1...16) : random.within(1...capacity)
            let unread = queue.reduce(0) { $0 + $1.count }
            if random.chance(percent: 60) {
                let mark = random.chance(percent: 30)
                let fits = unread + size <= capacity && queue.count < limit
                let count = send(pipe, sent, size, mark: mark)
                #expect(count == (fits ? size : 0), "seed \(seed)")
                if fits { queue.append((sent, size, mark)) }
                sent += count ?? 0
            } else {
                let peeks = random.chance(percent: 30)
                let (outcome, bytes) = receive(pipe, size, peeks: peeks)
                guard let first = queue.first else {
                    #expect(outcome.kind == .empty, "seed \(seed)")
                    continue
                }
                let count = min(size, first.count)
                let expected = ReceiveResult(
                    count: count, fullLength: first.count, endOfRecord: first.mark, truncated: count < first.count)
                #expect(outcome.result == expected, "seed \(seed)")
                #expect(bytes == (first.start..<(first.start + count)).map { UInt8(truncatingIfNeeded: $0) })
                if !peeks { queue.removeFirst() }
            }
        }
    }

    @Test("a pipe that is closed hands over what is unread, and takes and gives nothing any more")
    func closing() {
        let pipe = DirectPipe(.seqpacket, capacity: 5000)
        // Unread bytes lie across the end of the ring.
        #expect(send(pipe, 0, 3000) == 3000)
        #expect(receive(pipe, 5000).bytes.count == 3000)
        #expect(send(pipe, 10, 2000, mark: true) == 2000)
        #expect(send(pipe, 20, 5) == 5)
        var records: [[UInt8]] = [[]]
        var marks: [Bool] = []
        func take(_ bytes: UnsafeRawBufferPointer, _ endsRecord: Bool, _ mark: Bool) {
            records[records.count - 1] += bytes
            guard endsRecord else { return }
            records.append([])
            marks.append(mark)
        }
        pipe.close(take)
        #expect(records == [(10..<2010).map { UInt8(truncatingIfNeeded: $0) }, [20, 21, 22, 23, 24], []])
        #expect(marks == [true, false])
        #expect(send(pipe, 0, 1) == nil)
        #expect(receive(pipe, 1).outcome.kind == .closed)
        let unread = pipe.unreadByteCount
        #expect(unread == 0)
        pipe.close(take)
        #expect(marks.count == 2, "there is nothing to hand over twice")
    }

    @Test("who waits is told once what it waits for is there, and nobody else is")
    func waiting() {
        let pipe = DirectPipe(.stream, capacity: 100)
        func sendOne(_ count: Int) -> Bool {
            [UInt8](repeating: 0, count: count).withUnsafeBytes { pipe.send($0, hasEndOfRecordMark: false).mustWake }
        }
        #expect(!sendOne(10))
        pipe.awaitData()
        #expect(sendOne(10))
        let wasAwaited = pipe.takeAwaited()
        #expect(wasAwaited)
        #expect(!sendOne(80))
        #expect(!receive(pipe, 5).outcome.mustWake)
        pipe.awaitRoom(50)
        pipe.awaitRoom(30)
        #expect(!receive(pipe, 24).outcome.mustWake, "29 bytes are free")
        #expect(receive(pipe, 1).outcome.mustWake)
        let wasWaiting = pipe.takeAwaitedRoom()
        #expect(wasWaiting)
        #expect(!receive(pipe, 1).outcome.mustWake)
    }

    @Test("a buffer that is offered is filled once, cut and marked as the record says, and no more after a withdrawal")
    func offers() {
        let offer = BufferOffer()
        var buffer = [UInt8](repeating: 0, count: 4)
        let record: [UInt8] = [1, 2, 3, 4, 5]
        func fill(isRecord: Bool) -> Int? {
            record.withUnsafeBytes { offer.fill($0, isRecord: isRecord, hasEndOfRecordMark: true) }
        }
        #expect(fill(isRecord: true) == nil, "nothing is offered")
        buffer.withUnsafeMutableBytes { bytes in
            offer.offer(bytes)
            #expect(fill(isRecord: true) == 4)
            #expect(fill(isRecord: true) == nil, "it is filled already")
            let result = offer.end()
            #expect(result == ReceiveResult(count: 4, fullLength: 5, endOfRecord: true, truncated: true))
            offer.offer(bytes)
            #expect(fill(isRecord: false) == 4)
            let piece = offer.end()
            #expect(piece == ReceiveResult(count: 4, fullLength: 4))
            offer.offer(bytes)
            let nothing = offer.end()
            #expect(nothing == nil)
        }
        #expect(fill(isRecord: true) == nil, "the offer was withdrawn")
        #expect(buffer == [1, 2, 3, 4])
    }
}
