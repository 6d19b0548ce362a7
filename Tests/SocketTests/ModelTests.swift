// SPDX-License-Identifier: Apache-2.0
//
// Random sequences of calls on two connected sockets, against a model of sockets that knows no packets and no credit:
// two queues, and who has shut what. Nothing waits, so that every outcome is decided by the calls before it. The seed of
// a failure is printed; VSOCK_MODEL_SEED runs that one alone, VSOCK_MODEL_SEQUENCES sets how many there are.

import Testing
import VsockSystem
import VsockTestSupport

import Vsock

/// One direction of a connection, as its users see it.
private struct ModelQueue {
    var records: [(bytes: [UInt8], endOfRecord: Bool)] = []
    var isSenderShut = false
    var isReceiverShut = false
    var bufferSize = 262_144

    var byteCount: Int { records.reduce(0) { $0 + $1.bytes.count } }
}

private struct Mismatch: Error, CustomStringConvertible {
    var description: String
}

private struct SocketModel {
    let type: SocketType
    let isRFC: Bool
    var random: PRNG
    var sockets: [VsockSocket]
    let transport: VsockTransport
    /// `queues[i]` is what socket i receives.
    var queues = [ModelQueue(), ModelQueue()]
    var isClosed = [false, false]
    var trace: [String] = []
    var filler: UInt8 = 0

    mutating func run(steps: Int) throws {
        for _ in 0..<steps {
            let side = random.below(2)
            guard !isClosed[side] else { continue }
            switch random.below(100) {
            case ..<42: try send(side)
            case ..<84: try receive(side)
            case ..<88: try shutdown(side)
            case ..<93: try resize(side)
            case ..<94: close(side)
            case ..<95: try watch()
            default: break
            }
            for side in 0..<2 where !isClosed[side] { try checkReadiness(side) }
        }
    }

    /// Packets carry everything from now on, what nobody has received yet included.
    private mutating func watch() throws {
        trace.append("tap")
        try transport.setTap(SilentTap())
    }

    private mutating func check(_ condition: Bool, _ what: String) throws {
        guard condition else { throw Mismatch(description: what + "\n" + trace.suffix(12).joined(separator: "\n")) }
    }

    private mutating func send(_ side: Int) throws {
        let sizes = [0, 1, 8, 100, 4096, 65_536, 70_000, 200_000, 262_128, 262_144, 300_000]
        let count = random.chance(percent: 30) ? random.pick(sizes) : random.below(3000)
        let endOfRecord = random.chance(percent: 30)
        filler &+= 1
        let bytes = [UInt8](repeating: filler, count: count)
        let options = SendOptions(endOfRecord: endOfRecord, doesNotWait: true)
        let unread = queues[1 - side].byteCount
        var outcome = attempt(side, bytes, options)
        // The peer has read all, but may not have said so; asked once, it does.
        if outcome == .failure(.wouldBlock), unread == 0 { outcome = attempt(side, bytes, options) }
        trace.append("\(side) send \(count) eor \(endOfRecord): \(outcome), \(unread) unread")
        let queue = queues[1 - side]
        if queue.isSenderShut || queue.isReceiverShut || isClosed[1 - side] {
            return try check(outcome == .failure(.brokenPipe), "a send after the end")
        }
        if type == .stream { return try sentOnStream(side, bytes, outcome) }
        if count == 0, !isRFC { return try check(outcome == .success(0), "an empty standard record") }
        if count + (isRFC ? 16 : 0) > queue.bufferSize {
            return try check(outcome == .failure(.messageTooLong), "a record that is too long")
        }
        if outcome == .success(count) {
            // In RFC v5 the mark is on the packets with data.
            queues[1 - side].records.append((bytes, endOfRecord && count > 0))
        } else {
            try check(outcome == .failure(.wouldBlock) && unread > 0, "a record that fits")
        }
    }

    private mutating func sentOnStream(
        _ side: Int, _ bytes: [UInt8], _ outcome: Result<Int, SocketError>
    ) throws {
        switch outcome {
        case .success(let sent):
            try check(sent == bytes.count || queues[1 - side].byteCount + sent > 0, "a part of a stream")
            if sent > 0 { queues[1 - side].records.append((Array(bytes[..<sent]), false)) }
        case .failure(let error):
            try check(error == .wouldBlock && queues[1 - side].byteCount > 0, "a send on a stream with room")
        }
    }

    private func attempt(_ side: Int, _ bytes: [UInt8], _ options: SendOptions) -> Result<Int, SocketError> {
        do throws(SocketError) {
            return .success(try sockets[side].blocking.send(bytes.span.bytes, options: options))
        } catch { return .failure(error) }
    }

    private mutating func receive(_ side: Int) throws {
        let capacity = random.chance(percent: 20) ? 300_000 : 1 + random.below(5000)
        let peeks = random.chance(percent: 15)
        var buffer = [UInt8](repeating: 0, count: capacity)
        var outcome: Result<ReceiveResult, SocketError>
        do throws(SocketError) {
            outcome = .success(
                try sockets[side].blocking.receive(
                    into: &buffer, options: ReceiveOptions(peeks: peeks, doesNotWait: true)))
        } catch { outcome = .failure(error) }
        trace.append("\(side) receive \(capacity) peek \(peeks): \(outcome)")
        let queue = queues[side]
        guard !queue.isReceiverShut else {
            return try check(outcome == .success(ReceiveResult(isEnd: true)), "a receive after SHUT_RD")
        }
        guard let first = queue.records.first else {
            let hasEnded = queue.isSenderShut || isClosed[1 - side]
            let expected: Result<ReceiveResult, SocketError> =
                hasEnded ? .success(ReceiveResult(isEnd: true)) : .failure(.wouldBlock)
            return try check(outcome == expected, "a receive from an empty socket")
        }
        if type == .stream {
            var all: [UInt8] = []
            for record in queue.records where all.count < capacity { all += record.bytes }
            let expected = Array(all.prefix(capacity))
            try check(
                outcome == .success(ReceiveResult(count: expected.count, fullLength: expected.count)),
                "bytes of a stream: \(expected.count) expected")
            try check(Array(buffer[..<expected.count]) == expected, "the bytes of a stream")
            guard !peeks else { return }
            var rest = expected.count
            while rest > 0 {
                let count = min(rest, queues[side].records[0].bytes.count)
                queues[side].records[0].bytes.removeFirst(count)
                if queues[side].records[0].bytes.isEmpty { queues[side].records.removeFirst() }
                rest -= count
            }
            return
        }
        let count = min(capacity, first.bytes.count)
        let expected = ReceiveResult(
            count: count, fullLength: first.bytes.count, endOfRecord: first.endOfRecord,
            truncated: count < first.bytes.count)
        try check(outcome == .success(expected), "a record: \(expected)")
        try check(Array(buffer[..<count]) == Array(first.bytes[..<count]), "the bytes of a record")
        if !peeks { queues[side].records.removeFirst() }
    }

    private mutating func shutdown(_ side: Int) throws {
        let direction = random.pick([ShutdownDirection.receive, .send, .both])
        trace.append("\(side) shutdown \(direction)")
        try sockets[side].shutdown(direction)
        if direction != .receive { queues[1 - side].isSenderShut = true }
        guard direction != .send else { return }
        queues[side].isReceiverShut = true
        queues[side].records = []
    }

    private mutating func resize(_ side: Int) throws {
        guard queues[side].byteCount == 0 else { return }
        let size = random.pick([200, 4096, 65_536, 262_144])
        trace.append("\(side) buffer \(size)")
        try sockets[side].set(.bufferSize(UInt64(size)))
        queues[side].bufferSize = size
    }

    private mutating func close(_ side: Int) {
        trace.append("\(side) close")
        sockets[side].close()
        isClosed[side] = true
        queues[side].records = []
    }

    private mutating func checkReadiness(_ side: Int) throws {
        let queue = queues[side]
        let expected =
            queue.isReceiverShut || queue.isSenderShut || isClosed[1 - side] || !queue.records.isEmpty
        try check(sockets[side].readiness.contains(.readable) == expected, "readiness of \(side): \(expected)")
    }
}

@Suite("Model")
struct ModelTests {
    @Test(
        "random sequences of calls do what a simple model of sockets does",
        arguments: [(SocketType.stream, SeqpacketMode.standard), (.seqpacket, .standard), (.seqpacket, .rfcV5)])
    func sequences(type: SocketType, mode: SeqpacketMode) async throws {
        let count = CurrentProcess.environment("VSOCK_MODEL_SEQUENCES").flatMap { Int($0) } ?? 1500
        let only = CurrentProcess.environment("VSOCK_MODEL_SEED").flatMap { UInt64($0) }
        let transport = VsockTransport.isolatedLoopback(seqpacket: mode)
        let listener = try await VsockListener.bind(type, port: 1, on: transport)
        for seed in only.map({ $0...$0 }) ?? 0...UInt64(count - 1) {
            let client = try await VsockSocket.connect(
                type, to: VsockAddress(cid: .local, port: 1), over: transport)
            let server = try await listener.accept()
            var model = SocketModel(
                type: type, isRFC: mode == .rfcV5, random: PRNG(seed: seed), sockets: [client, server],
                transport: transport)
            do {
                try model.run(steps: 40)
            } catch {
                Issue.record("seed \(seed), \(type) \(mode): \(error)")
                return
            }
            try transport.setTap(nil)
        }
    }
}
