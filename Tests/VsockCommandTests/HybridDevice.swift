// SPDX-License-Identifier: Apache-2.0
//
// A device as its clients see it: the hybrid Unix sockets, played by the test.

import Glibc
import Testing
import VsockSystem

/// Listens where a device listens.
final class HybridDevice {
    let directory: TemporaryDirectory
    let path: String
    let type: UnixSocketType
    private var listener: UnixListener?

    init(_ type: UnixSocketType = .stream) throws {
        directory = try TemporaryDirectory()
        path = directory.file("vm.vsock")
        self.type = type
        listener = try UnixListener(UnixAddress(type == .stream ? path : path + "_seqpacket"), type: type)
    }

    var transport: [String] { ["--transport", "uds:\(path)"] }

    /// Arguments of `vsock connect`.
    func connectArguments(_ more: [String] = [], port: Int = 1234) -> [String] {
        ["connect"] + (type == .seqpacket ? ["--seqpacket"] : []) + transport + more + ["\(port)"]
    }

    func stopListening() { listener = nil }

    /// The next client, which has not been answered.
    func acceptClient() throws -> OwnedFileDescriptor {
        let listener = try #require(listener)
        try waitUntil(listener.rawDescriptor, .readable)
        guard let client = try listener.accept() else { throw Deadline() }
        try SocketOptions.setSendBuffer(client.rawValue, byteCount: 4 << 20)
        return client
    }

    /// The next client, whose request was right and is accepted. `payload` leaves together with the answer.
    func connectClient(port: Int = 1234, payload: String = "") throws -> OwnedFileDescriptor {
        let client = try acceptClient()
        let request = "CONNECT \(port)\n"
        #expect(try readText(client.rawValue, count: request.utf8.count) == request)
        try writeAll(client.rawValue, "OK 1073741824\n\(payload)")
        return client
    }
}

/// Connects like a device whose guest connects: waits until the command listens.
func connectAsGuest(to path: String, _ type: UnixSocketType) throws -> OwnedFileDescriptor {
    var connection: OwnedFileDescriptor?
    try poll {
        do throws(SystemCallError) {
            connection = try UnixSocket.connect(to: UnixAddress(path), type: type, nonBlocking: true)
            return true
        } catch {
            guard error.errno == .noSuchFile || error.errno == .connectionRefused else { throw error }
            return false
        }
    }
    guard let socket = connection.take() else { throw Deadline() }
    try SocketOptions.setSendBuffer(socket.rawValue, byteCount: 4 << 20)
    return socket
}
