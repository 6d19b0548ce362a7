// SPDX-License-Identifier: Apache-2.0
//
// A side whose connections are sockets of the API, over whatever transport: a thread for each, blocking in its calls, as
// programs do.

import Synchronization
import Vsock
import VsockCore
import VsockSystem
import VsockTransport
import VsockWire

/// See the top of the file.
final class SocketSide: PerfSide {
    private let plan: PerfPlan
    private let sockets: [VsockSocket]
    /// Keeps the silent connections open.
    private let idle: [VsockSocket]

    /// Takes the connections over; the plan's number of them carry messages, the others stay silent.
    init(_ sockets: [VsockSocket], _ plan: PerfPlan) {
        self.plan = plan
        self.sockets = Array(sockets.prefix(plan.connectionCount))
        idle = Array(sockets.dropFirst(plan.connectionCount))
    }

    func run(_ role: PerfRole) throws -> PerfMeter {
        let box = MeterBox()
        var threads: [BackgroundRun] = []
        for (index, socket) in sockets.enumerated() {
            let plan = plan
            let count = sockets.count
            for part in role == .both ? [PerfRole.send, .receive] : [role] {
                threads.append(
                    try BackgroundRun(name: "connection") {
                        let worker = SocketWorker(socket, plan, index: index, of: count)
                        let meter = try worker.run(part, closes: role != .both)
                        box.meters.withLock { $0.append(meter) }
                    })
            }
        }
        for thread in threads { try thread.wait() }
        return box.meters.withLock { PerfMeter(merging: $0) }
    }

    private final class MeterBox: Sendable {
        let meters = Mutex<[PerfMeter]>([])
    }
}

/// One connection's thread.
private struct SocketWorker {
    private static let endTimeoutNanoseconds: UInt64 = 5_000_000_000

    private let socket: VsockSocket
    private let plan: PerfPlan
    private let index: Int
    private let count: Int
    private let message: [UInt8]

    init(_ socket: VsockSocket, _ plan: PerfPlan, index: Int, of count: Int) {
        self.socket = socket
        self.plan = plan
        self.index = index
        self.count = count
        message = [UInt8](repeating: 0x5a, count: plan.messageByteCount)
    }

    func run(_ role: PerfRole, closes: Bool) throws -> PerfMeter {
        var meter = PerfMeter(connectionCount: count, measuresRoundTrips: role == .ask, progress: plan.progress)
        var quota = PerfQuota(plan.limit, start: meter.start, share: 1, of: count)
        var buffer = [UInt8](repeating: 0, count: plan.receiveByteCount)
        switch role {
        case .send, .both:
            while quota.allowsMessage(of: message.count) {
                try send(&meter)
                quota.take(message.count)
            }
            try? socket.shutdown(.send)
            if closes { awaitEnd(&buffer) }
        case .receive:
            while try receive(&buffer, &meter) > 0 {}
            if closes { try? socket.shutdown(.both) }
        case .ask:
            while true {
                let start = MonotonicClock.now()
                guard quota.allowsMessage(at: start) else { break }
                try send(&meter)
                quota.take(message.count)
                var missing = message.count
                while missing > 0 {
                    let count = try receive(&buffer, &meter)
                    guard count > 0 else { throw Failure("the peer ended before the answer was whole") }
                    missing -= count
                }
                meter.recordRoundTrip(MonotonicClock.now() - start)
            }
            try? socket.shutdown(.send)
            awaitEnd(&buffer)
        case .echo:
            var owed = 0
            while true {
                let count = try receive(&buffer, &meter)
                guard count > 0 else { break }
                owed += count
                while owed >= message.count {
                    try send(&meter)
                    owed -= message.count
                }
            }
            try? socket.shutdown(.both)
        }
        meter.end = MonotonicClock.now()
        return meter
    }

    /// What was sent may be on its way still, and the transport ends with this process: the peer ends when it has all.
    private func awaitEnd(_ buffer: inout [UInt8]) {
        let options = ReceiveOptions(timeoutNanoseconds: Self.endTimeoutNanoseconds)
        while let result = try? socket.blocking.receive(into: &buffer, options: options), !result.isEnd {}
    }

    private func send(_ meter: inout PerfMeter) throws {
        do throws(SocketError) {
            meter.sentByteCount += UInt64(try socket.blocking.send(message))
        } catch {
            throw Failure("sending: \(error.name): has the peer ended?")
        }
    }

    /// 0 at the end.
    private func receive(_ buffer: inout [UInt8], _ meter: inout PerfMeter) throws -> Int {
        do throws(SocketError) {
            let count = try socket.blocking.receive(into: &buffer).count
            meter.countReceived(count, index)
            return count
        } catch .connectionReset {
            return 0
        } catch {
            throw Failure("receiving: \(error.name)")
        }
    }
}
