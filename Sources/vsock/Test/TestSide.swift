// SPDX-License-Identifier: Apache-2.0
//
// What a case is run with, and the calls that most cases begin with. Their words on the control connection are the
// kernel's.

import Vsock
import VsockCore
import VsockTransport
import VsockWire

/// One side of the tests.
struct TestSide: Sendable {
    /// No wait of a case is longer. The kernel's program allows 10 s, on machines with nothing else to do.
    static let waitNanoseconds: UInt64 = 30_000_000_000

    let transport: VsockTransport
    let peerCID: VsockAddress.ContextID
    let port: VsockAddress.Port
    let control: ControlConnection

    /// A socket that is nothing yet.
    func makeSocket(_ type: SocketType) throws -> TestSocket { TestSocket(try transport.makeSocket(type)) }

    /// The peer's port.
    var peer: VsockAddress { VsockAddress(cid: peerCID, port: port) }

    /// Connects when the peer listens.
    func connect(_ type: SocketType) throws -> TestSocket {
        try control.expect("LISTENING")
        let socket = try makeSocket(type)
        try socket.connect(to: peer)
        return socket
    }

    /// A listener on the port.
    func listen(_ type: SocketType) throws -> TestSocket {
        let socket = try makeSocket(type)
        try socket.bind(to: VsockAddress(cid: .any, port: port))
        try socket.listen()
        return socket
    }

    /// The one connection that comes.
    func accept(_ type: SocketType) throws -> TestSocket {
        let listener = try listen(type)
        defer { listener.close() }
        try control.write("LISTENING")
        return try listener.accept()
    }
}

extension SocketType {
    /// The name in the cases.
    var testName: String { self == .stream ? "SOCK_STREAM" : "SOCK_SEQPACKET" }
}
