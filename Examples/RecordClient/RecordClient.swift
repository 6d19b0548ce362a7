// SPDX-License-Identifier: Apache-2.0
//
// Requests and responses over records: one record each, so neither side has to look for where a message ends.
//
//     RecordClient kernel 2:1234 'first request' 'second request'

import Glibc
import Vsock

@main
struct RecordClient {
    static func main() async throws {
        let arguments = CommandLine.arguments
        guard arguments.count >= 4, let server = VsockAddress(arguments[2]) else {
            print("usage: RecordClient TRANSPORT CID:PORT REQUEST…")
            exit(64)
        }
        let socket = try await VsockSocket.connect(.seqpacket, to: server, over: VsockTransport(arguments[1]))
        var buffer = [UInt8](repeating: 0, count: 65536)
        for request in arguments[3...] {
            try await socket.send(Array(request.utf8))
            // A server that does not answer is an error (EAGAIN), not a wait for ever.
            let response = try await socket.receive(
                into: &buffer, options: ReceiveOptions(timeoutNanoseconds: 10_000_000_000))
            if response.isEnd {
                print("the server has closed the connection")
                exit(1)
            }
            let text = String(decoding: buffer[..<response.count], as: UTF8.self)
            print(response.truncated ? "\(text)… (\(response.fullLength) bytes)" : text)
        }
    }
}
