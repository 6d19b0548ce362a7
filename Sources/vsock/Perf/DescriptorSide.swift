// SPDX-License-Identifier: Apache-2.0
//
// A side whose connections are descriptors: the host programs of a device, plain Unix sockets to compare with, and the
// kernel's AF_VSOCK where it sends with MSG_ZEROCOPY. One thread serves them all. A single connection in one direction
// blocks in its calls, as a simple program does; several take turns, and epoll says which.

import VsockSystem
import VsockWire

/// See the top of the file.
final class DescriptorSide: ThreadSide, PerfSide, @unchecked Sendable {
    // Unchecked: as ThreadSide.

    /// What became of a connection's turn.
    private enum Turn {
        case more
        case blocked
        case ended
    }

    private struct Line {
        let descriptor: SharedFileDescriptor
        /// Bytes of the message under way that have been sent.
        var sentOfMessage = 0
        /// Bytes that a stream has yet to send back, or that an asker waits for.
        var owedByteCount = 0
        var askedAt: UInt64 = 0
        var hasSent = false
        var hasReceived = false
        var isReady = true
    }

    @exclusivity(unchecked) private var lines: [Line]
    /// Keeps the silent connections open.
    private let idle: [SharedFileDescriptor]
    private var isAlone = false

    /// Takes the connections over; the plan's number of them carry messages, the others stay silent.
    init(_ descriptors: [SharedFileDescriptor], _ plan: PerfPlan) {
        lines = descriptors.prefix(plan.connectionCount).map { Line(descriptor: $0) }
        idle = Array(descriptors.dropFirst(plan.connectionCount))
        super.init(plan, bufferByteCount: plan.receiveByteCount)
    }

    func run(_ role: PerfRole) throws -> PerfMeter {
        isAlone = lines.count == 1 && role != .both
        begin(role)
        let poller = try Poller()
        var events = PollEventBuffer(capacity: 256)
        for (index, line) in lines.enumerated() {
            try DescriptorIO.setNonBlocking(line.descriptor.rawValue, !isAlone)
            if !isAlone {
                try poller.add(
                    line.descriptor.rawValue, [.readable, .writable, .readHangUp, .edgeTriggered],
                    token: UInt64(index))
            }
        }
        var open = lines.count
        while open > 0 {
            var hasMore = false
            for index in lines.indices where lines[index].isReady {
                switch try turn(index) {
                case .more: hasMore = true
                case .blocked: lines[index].isReady = false
                case .ended:
                    lines[index].isReady = false
                    open -= 1
                    if !isAlone { try poller.remove(lines[index].descriptor.rawValue) }
                }
            }
            guard open > 0, !isAlone else { continue }
            let rest = role == .both ? quota.remainingNanoseconds(at: MonotonicClock.now()).map { $0 + 1 } : nil
            try poller.wait(into: &events, timeoutNanoseconds: hasMore ? 0 : rest)
            for index in 0..<events.count { lines[Int(events[index].token)].isReady = true }
            if role == .both, rest == 1 { for index in lines.indices { lines[index].isReady = true } }
        }
        meter.end = MonotonicClock.now()
        lines = []
        return meter
    }

    private func turn(_ index: Int) throws -> Turn {
        switch role {
        case .send: return try send(index)
        case .receive: return try receive(index)
        case .both: return try exchange(index)
        case .ask: return try ask(index)
        case .echo: return try echo(index)
        }
    }

    private func exchange(_ index: Int) throws -> Turn {
        let sent = lines[index].hasSent ? Turn.ended : try send(index)
        if case .ended = sent { lines[index].hasSent = true }
        let received = lines[index].hasReceived ? Turn.ended : try receive(index)
        if case .ended = received { lines[index].hasReceived = true }
        switch (sent, received) {
        case (.ended, _) where lines[index].hasReceived || quota.remainingNanoseconds(at: MonotonicClock.now()) == 0:
            return .ended
        case (.more, _), (_, .more): return .more
        default: return .blocked
        }
    }

    private func send(_ index: Int) throws -> Turn {
        for _ in 0..<Self.turnMessageCount {
            guard lines[index].sentOfMessage > 0 || quota.allowsMessage(of: plan.messageByteCount) else {
                try finish(index)
                return .ended
            }
            do {
                guard try sendRest(index) else { return .blocked }
            } catch  where role == .both {
                // The guest has ended both directions when its own was done.
                return .ended
            }
            quota.take(plan.messageByteCount)
        }
        return .more
    }

    /// Sends what is left of the message under way; false when the socket is full.
    private func sendRest(_ index: Int) throws -> Bool {
        while lines[index].sentOfMessage < message.count {
            let rest = UnsafeRawBufferPointer(rebasing: message[lines[index].sentOfMessage...])
            let raw = lines[index].descriptor.rawValue
            switch DescriptorIO.send(raw, from: rest, flags: plan.usesZeroCopy ? .zeroCopy : []) {
            case .count(let count):
                lines[index].sentOfMessage += count
                meter.sentByteCount += UInt64(count)
                if plan.usesZeroCopy { try takeCompletions(raw) }
            case .wouldBlock: return false
            case .failed(.noBufferSpace) where plan.usesZeroCopy:
                try awaitCompletions(raw)
            case .failed(let errno): throw Failure("sending: \(errno): has the peer ended?")
            }
        }
        lines[index].sentOfMessage = 0
        return true
    }

    /// The peer reads the end. A role that still receives leaves its direction open.
    private func finish(_ index: Int) throws {
        let raw = lines[index].descriptor.rawValue
        if plan.usesZeroCopy { return try finishZeroCopy(raw) }
        try? SocketOptions.shutdown(raw, role == .both ? .send : .both)
    }

    /// Reads once; nil when nothing is there, 0 at the end.
    private func read(_ index: Int) throws -> Int? {
        switch DescriptorIO.receive(lines[index].descriptor.rawValue, into: buffer) {
        case .count(let count):
            meter.countReceived(count, index)
            return count
        case .wouldBlock: return nil
        // What a device makes of a reset by the guest.
        case .failed(.connectionReset): return 0
        case .failed(let errno): throw Failure("receiving: \(errno)")
        }
    }

    private func receive(_ index: Int) throws -> Turn {
        for _ in 0..<Self.turnMessageCount {
            guard let count = try read(index) else { return .blocked }
            if count == 0 { return .ended }
        }
        return .more
    }

    private func ask(_ index: Int) throws -> Turn {
        for _ in 0..<Self.turnMessageCount {
            if lines[index].owedByteCount == 0 {
                let now = MonotonicClock.now()
                if lines[index].sentOfMessage == 0 {
                    guard quota.allowsMessage(at: now) else {
                        try finish(index)
                        return .ended
                    }
                    lines[index].askedAt = now
                }
                guard try sendRest(index) else { return .blocked }
                quota.take(plan.messageByteCount)
                lines[index].owedByteCount = plan.messageByteCount
            }
            guard let count = try read(index) else { return .blocked }
            guard count > 0 else { throw Failure("the peer ended before the answer was whole") }
            lines[index].owedByteCount -= count
            if lines[index].owedByteCount <= 0 {
                lines[index].owedByteCount = 0
                meter.recordRoundTrip(MonotonicClock.now() - lines[index].askedAt)
            }
        }
        return .more
    }

    private func echo(_ index: Int) throws -> Turn {
        for _ in 0..<Self.turnMessageCount {
            while lines[index].owedByteCount >= message.count || lines[index].sentOfMessage > 0 {
                guard try sendRest(index) else { return .blocked }
                lines[index].owedByteCount -= message.count
            }
            guard let count = try read(index) else { return .blocked }
            if count == 0 { return .ended }
            lines[index].owedByteCount += count
        }
        return .more
    }
}
