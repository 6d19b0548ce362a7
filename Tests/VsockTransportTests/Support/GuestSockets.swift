// SPDX-License-Identifier: Apache-2.0
//
// A guest with sockets: the package's own driver. Every wait has the tests' deadline, which shows as EAGAIN.

import Testing
import VsockCore
import VsockSystem
import VsockTestSupport
import VsockWire

@testable import VsockTransport

/// The sockets of a guest that reads its queues all the time, on a thread of its own.
final class GuestSockets: @unchecked Sendable {
    // Unchecked: a test hands it from one thread to the next, never to two.

    let driver: SocketDriver
    private var listeners: [UInt32: any ConnectibleSocket] = [:]

    init(path: String, options: VsockDriver.Options = VsockDriver.Options()) throws {
        driver = try SocketDriver(path: path, options: options)
    }

    deinit { driver.stop() }

    /// Connections that have not ended on both sides.
    var connectionCount: Int {
        let table = driver.carrier.table
        return table.lock.withLock { table.endpoint.connectionCount }
    }

    /// Connects to a port of the host, or of another guest.
    func connect(
        _ type: SocketType, to cid: VsockAddress.ContextID = .host, port: UInt32
    ) throws -> any ConnectibleSocket {
        let socket = driver.makeSocket(type)
        try socket.connect(to: VsockAddress(cid: cid, port: VsockAddress.Port(rawValue: port)))
        return socket
    }

    /// Listens on a port, unless it does.
    func listen(_ type: SocketType, port: UInt32, backlog: Int = 128) throws {
        guard listeners[port] == nil else { return }
        let socket = driver.makeSocket(type)
        try socket.set(.receiveTimeout(.nanoseconds(testDeadline)))
        try socket.bind(to: VsockAddress(cid: .any, port: VsockAddress.Port(rawValue: port)))
        try socket.listen(backlog: backlog)
        listeners[port] = socket
    }

    /// Waits for a connection on a port that is listened on.
    func accept(port: UInt32) throws -> any ConnectibleSocket {
        guard let listener = listeners[port] else { throw TestFailure("nobody listens on \(port)") }
        return try listener.accept()
    }
}

extension ConnectibleSocket {
    /// Sends all bytes, as one record on a seqpacket socket.
    func send(_ bytes: [UInt8], endOfRecord: Bool = false, timeoutNanoseconds: UInt64 = testDeadline) throws {
        let options = SendOptions(endOfRecord: endOfRecord, timeoutNanoseconds: timeoutNanoseconds)
        var offset = 0
        repeat {
            // Of a stream, a part may go before the peer gives up.
            offset += try bytes[offset...].withUnsafeBytes { try send($0, options) }
        } while offset < bytes.count
    }

    /// The next bytes of a stream, or the next record; nil at the end.
    func receive() throws -> [UInt8]? { try receiveRecord()?.bytes }

    /// The next record, and whether it was sent with MSG_EOR; nil at the end.
    func receiveRecord() throws -> (bytes: [UInt8], endOfRecord: Bool)? {
        var result = ReceiveResult()
        let bytes = try [UInt8](unsafeUninitializedCapacity: 1 << 20) { buffer, count in
            result = try receive(
                into: UnsafeMutableRawBufferPointer(buffer), ReceiveOptions(timeoutNanoseconds: testDeadline))
            count = result.count
        }
        return result.isEnd ? nil : (bytes, result.endOfRecord)
    }

    /// So many bytes of a stream.
    func receive(exactly byteCount: Int) throws -> [UInt8] {
        var bytes: [UInt8] = []
        while bytes.count < byteCount {
            guard let more = try receive() else {
                throw TestFailure("the guest's end after \(bytes.count) of \(byteCount) bytes")
            }
            bytes += more
        }
        return bytes
    }

    /// Everything until the end.
    func receiveToEnd() throws -> [UInt8] { try flat(receiveRecordsToEnd()) }

    /// All records until the end.
    func receiveRecordsToEnd() throws -> [[UInt8]] {
        var records: [[UInt8]] = []
        while let record = try receive() { records.append(record) }
        return records
    }

    /// Directions that the peer has given up; both after a reset.
    var peerShutdown: ShutdownFlags {
        guard let socket = self as? TableSocket else { return [] }
        return socket.table.lock.withLock { socket.peerShutdown }
    }
}
