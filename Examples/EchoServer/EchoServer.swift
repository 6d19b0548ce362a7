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
        let listener = try await VsockListener.bind(type, port: port, on: VsockTransport(arguments[1]))
        print("listening on \(listener.address)")
        fflush(nil)

        try await withThrowingDiscardingTaskGroup { group in
            for try await socket in listener {
                group.addTask {
                    // What happens to one connection is no matter of the others.
                    do throws(SocketError) {
                        try await echo(socket)
                    } catch {
                        print("a connection ended with \(error)")
                    }
                }
            }
        }
    }

    static func echo(_ socket: VsockSocket) async throws(SocketError) {
        // Records of the standard framing are no larger than the receive buffer.
        var buffer = [UInt8](repeating: 0, count: Int(socket.settings.bufferSize))
        while true {
            let received = try await socket.receive(into: &buffer)
            if received.isEnd { return }
            try await socket.send(
                buffer.span.extracting(..<received.count).bytes,
                options: SendOptions(endOfRecord: received.endOfRecord))
        }
    }
}
