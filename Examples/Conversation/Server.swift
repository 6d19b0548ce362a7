// SPDX-License-Identifier: Apache-2.0
//
// The side that listens.

import Glibc
import Vsock

/// Sends back what it gets on one connection for records and one for a stream.
struct Server {
    private let records: VsockListener
    private let streams: VsockListener

    /// Listens, so that a client may connect from now on.
    init(on transport: VsockTransport) async throws {
        records = try await VsockListener.bind(.seqpacket, port: Conversation.recordPort, on: transport)
        streams = try await VsockListener.bind(.stream, port: Conversation.streamPort, on: transport)
        print("listening")
        fflush(nil)
    }

    /// Serves one client.
    func run() async throws {
        for listener in [records, streams] {
            let socket = try await listener.accept()
            var buffer = [UInt8](repeating: 0, count: 262_144)
            while true {
                let received = try await socket.receive(into: &buffer)
                if received.isEnd { break }
                try await socket.send(buffer.span.extracting(..<received.count).bytes)
            }
        }
    }
}
