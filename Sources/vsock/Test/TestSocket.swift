// SPDX-License-Identifier: Apache-2.0
//
// A socket whose calls say what was expected of them. It is closed with its last reference, so that a case that fails
// leaves nothing behind.

import Vsock
import VsockCore
import VsockSystem
import VsockTransport
import VsockWire

/// See the top of the file.
final class TestSocket: Sendable {
    let socket: any ConnectibleSocket

    init(_ socket: any ConnectibleSocket) { self.socket = socket }

    deinit { socket.close() }

    func close() { socket.close() }

    // MARK: Connections

    func bind(to address: VsockAddress) throws { try expectSuccess("bind") { try socket.bind(to: address) } }

    func listen() throws { try expectSuccess("listen") { try socket.listen(backlog: 1) } }

    func connect(to address: VsockAddress) throws {
        try set(.connectTimeout(.nanoseconds(TestSide.waitNanoseconds)))
        try expectSuccess("connect") { try socket.connect(to: address) }
    }

    func expectConnect(to address: VsockAddress, fails error: SocketError) throws {
        try set(.connectTimeout(.nanoseconds(TestSide.waitNanoseconds)))
        try expect("connect", fails: error) { try socket.connect(to: address) }
    }

    func accept() throws -> TestSocket {
        guard !wait(for: .readable).isEmpty else { throw Failure("accept: no connection came") }
        return TestSocket(try expectSuccess("accept") { try socket.accept(doesNotWait: true) })
    }

    func shutdown(_ direction: ShutdownDirection) throws {
        try expectSuccess("shutdown") { try socket.shutdown(direction) }
    }

    func set(_ option: SocketOption) throws { try expectSuccess("setsockopt") { try socket.set(option) } }

    /// Waits until one of `events` holds, an error or a hang-up; empty when the time has passed.
    func wait(for events: SocketReadiness, nanoseconds: UInt64 = TestSide.waitNanoseconds) -> SocketReadiness {
        socket.poll(events, timeoutNanoseconds: nanoseconds)
    }

    /// Waits until the peer sends no more.
    func waitForPeerClose() throws {
        guard !wait(for: .readHangUp).isEmpty else { throw Failure("poll: the peer does not close") }
    }

    // MARK: Data

    /// Sends all bytes.
    func send(_ bytes: [UInt8], endOfRecord: Bool = false) throws {
        let options = SendOptions(endOfRecord: endOfRecord, timeoutNanoseconds: TestSide.waitNanoseconds)
        let count = try expectSuccess("send") { try bytes.withUnsafeBytes { try socket.send($0, options) } }
        guard count == bytes.count else { throw Failure("send: \(count) of \(bytes.count) bytes went") }
    }

    func expectSend(_ bytes: [UInt8], fails error: SocketError) throws {
        let options = SendOptions(timeoutNanoseconds: TestSide.waitNanoseconds)
        try expect("send", fails: error) { try bytes.withUnsafeBytes { _ = try socket.send($0, options) } }
    }

    /// Whether the peer takes no more: a byte is sent to find out.
    func isRefused() throws -> Bool {
        do {
            _ = try Self.byte.withUnsafeBytes { try socket.send($0, SendOptions(doesNotWait: true)) }
            return false
        } catch SocketError.wouldBlock {
            return false
        } catch SocketError.brokenPipe {
            return true
        } catch let error as SocketError {
            throw Failure("send: \(error.name), not EPIPE")
        }
    }

    /// One receive.
    func receiveOnce(
        _ capacity: Int, peeks: Bool = false, doesNotWait: Bool = false
    ) throws -> (bytes: [UInt8], result: ReceiveResult) {
        let options = ReceiveOptions(
            peeks: peeks, doesNotWait: doesNotWait, timeoutNanoseconds: TestSide.waitNanoseconds)
        var bytes = [UInt8](repeating: 0, count: capacity)
        let result = try expectSuccess("recv") {
            try bytes.withUnsafeMutableBytes { try socket.receive(into: $0, options) }
        }
        return (Array(bytes[..<result.count]), result)
    }

    /// Exactly so many bytes: of a stream by as many receives as it takes, or one record.
    func receive(_ count: Int, peeks: Bool = false, doesNotWait: Bool = false) throws -> [UInt8] {
        var bytes: [UInt8] = []
        repeat {
            let part = try receiveOnce(peeks ? count : count - bytes.count, peeks: peeks, doesNotWait: doesNotWait)
            if part.result.isEnd { break }
            bytes = peeks ? part.bytes : bytes + part.bytes
        } while bytes.count < count
        guard bytes.count == count else { throw Failure("recv: \(bytes.count) of \(count) bytes came, then the end") }
        return bytes
    }

    /// A receive that fails: at once, or when it `waits` and SO_RCVTIMEO has passed.
    func expectReceive(
        _ capacity: Int, peeks: Bool = false, waits: Bool = false, fails error: SocketError
    ) throws {
        let options = ReceiveOptions(peeks: peeks, doesNotWait: !waits)
        var bytes = [UInt8](repeating: 0, count: capacity)
        try expect("recv", fails: error) {
            try bytes.withUnsafeMutableBytes { _ = try socket.receive(into: $0, options) }
        }
    }

    func expectEnd() throws {
        let (bytes, result) = try receiveOnce(1)
        guard result.isEnd else { throw Failure("recv: \(bytes.count) bytes came where the end was expected") }
    }

    /// The byte that the kernel's program sends where the content does not matter.
    static let byte: [UInt8] = [UInt8(ascii: "A")]

    func sendByte() throws { try send(Self.byte) }

    func receiveByte(peeks: Bool = false) throws {
        let bytes = try receive(1, peeks: peeks)
        guard bytes == Self.byte else { throw Failure("recv: the byte \(bytes[0]) came, not \(Self.byte[0])") }
    }

    // MARK: Parts

    private func expectSuccess<Value>(_ call: String, _ body: () throws -> Value) throws -> Value {
        do {
            return try body()
        } catch let error as SocketError {
            throw Failure("\(call): \(Errno(rawValue: error.errno))")
        }
    }

    private func expect(_ call: String, fails expected: SocketError, _ body: () throws -> Void) throws {
        do {
            try body()
        } catch let error as SocketError {
            guard error == expected else { throw Failure("\(call): \(error.name), not \(expected.name)") }
            return
        }
        throw Failure("\(call): it succeeded where \(expected.name) was expected")
    }
}
