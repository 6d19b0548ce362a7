// SPDX-License-Identifier: Apache-2.0
//
// Sends back what comes: the bytes of streams, or record by record.
//
//     EchoServer uds:/tmp/vm3.vsock 1234             on the host of a VM that `vsock serve` serves
//     EchoServer kernel 1234 seqpacket               in a guest

import Glibc
import Vsock

@main
struct EchoServer {
    static func main() async throws {
        let arguments = CommandLine.arguments
        guard arguments.count >= 3, let port = VsockAddress.Port(arguments[2]) else {
            print("usage: EchoServer TRANSPORT PORT [seqpacket]")
            exit(64)
        }
        let type: SocketType = arguments.contains("seqpacket") ? .seqpacket : .stream
        try await serve(type, port: port, on: VsockTransport(arguments[1]))
    }
}

func serve(_ type: SocketType, port: VsockAddress.Port, on transport: VsockTransport) async throws {
    let listener = try await VsockListener.bind(type, port: port, on: transport)
    print("listening on \(listener.address)")
    fflush(nil)
    try await withThrowingDiscardingTaskGroup { group in
        for try await socket in listener {
            group.addTask {
                do throws(SocketError) {
                    try await echo(socket)
                } catch {
                    print("a connection ended with \(error)")
                }
            }
        }
    }
}

func echo(_ socket: VsockSocket) async throws(SocketError) {
    var buffer = [UInt8](repeating: 0, count: 262_144)
    while true {
        let received = try await socket.receive(into: &buffer)
        if received.isEnd { return }
        try await socket.send(
            buffer.span.extracting(..<received.count).bytes,
            options: SendOptions(endOfRecord: received.endOfRecord))
    }
}
