// SPDX-License-Identifier: Apache-2.0
//
// Both ends of a connection on one thread, which sends a message and receives it, in turns, without ever waiting: what
// the way through rings and packets costs when nothing has to be woken.

import Vsock
import VsockCore
import VsockSystem
import VsockTransport
import VsockWire

/// See the top of the file.
struct AlternatingSockets {
    private let guest: VsockSocket
    private let host: VsockSocket
    private let plan: PerfPlan
    /// They live as long as the sockets are used.
    private let transports: [VsockTransport]

    /// The package's driver and its device.
    init(socket path: String, _ plan: PerfPlan, bufferByteCount: UInt32) throws {
        self.plan = plan
        let device = VsockTransport.device(path)
        let driver = VsockTransport.driver(path)
        transports = [device, driver]
        try device.setTap(plan.tap)
        try device.open()
        let options = PerfPeers.bufferOptions(bufferByteCount)
        let port = VsockAddress.Port(rawValue: plan.port)
        let listener = try VsockListener.bindBlocking(plan.type, port: port, on: device, options: options)
        guest = try VsockSocket.connectBlocking(
            plan.type, to: VsockAddress(cid: .host, port: port), over: driver, options: options)
        host = try listener.acceptBlocking()
    }

    /// Sends messages until the limit and receives each of them.
    func run(_ direction: PerfDirection) throws -> PerfMeter {
        let (sender, receiver) = direction == .guestToHost ? (guest, host) : (host, guest)
        let message = [UInt8](repeating: 0x5a, count: plan.messageByteCount)
        var buffer = [UInt8](repeating: 0, count: plan.receiveByteCount)
        var meter = PerfMeter(connectionCount: 1, measuresRoundTrips: false, progress: plan.progress)
        var quota = PerfQuota(plan.limit, start: meter.start)
        do throws(SocketError) {
            while quota.allowsMessage(of: message.count) {
                var sent = 0
                var received = 0
                while received < message.count {
                    // A stream may take a part.
                    if sent < message.count { sent += try send(message, from: sent, sender) }
                    let count = try receive(&buffer, receiver)
                    received += count
                    meter.countReceived(count, 0)
                }
                quota.take(message.count)
            }
        } catch {
            throw Failure("sending to itself: \(error.name)")
        }
        meter.end = MonotonicClock.now()
        return meter
    }

    private func send(_ message: [UInt8], from start: Int, _ socket: VsockSocket) throws(SocketError) -> Int {
        do throws(SocketError) {
            return try socket.blocking.send(
                message.span.bytes.extracting(start...), options: SendOptions(doesNotWait: true))
        } catch .wouldBlock {
            return 0
        }
    }

    private func receive(_ buffer: inout [UInt8], _ socket: VsockSocket) throws(SocketError) -> Int {
        do throws(SocketError) {
            let result = try socket.blocking.receive(into: &buffer, options: ReceiveOptions(doesNotWait: true))
            guard !result.isEnd else { throw .connectionReset }
            return result.count
        } catch .wouldBlock {
            return 0
        }
    }
}
