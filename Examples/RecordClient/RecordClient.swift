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
        let transport = try VsockTransport(arguments[1])
        let socket = try await VsockSocket.connect(.seqpacket, to: server, over: transport)
        for request in arguments[3...] {
            guard let response = try await ask(request, over: socket) else {
                print("the server has closed the connection")
                exit(1)
            }
            print(response)
        }
    }
}

func ask(_ request: String, over socket: VsockSocket) async throws(SocketError) -> String? {
    try await socket.send(Array(request.utf8))
    var buffer = [UInt8](repeating: 0, count: 65536)
    let response = try await socket.receive(
        into: &buffer, options: ReceiveOptions(timeoutNanoseconds: 10_000_000_000))
    if response.isEnd { return nil }
    let text = String(decoding: buffer[..<response.count], as: UTF8.self)
    return response.truncated ? "\(text)… (\(response.fullLength) bytes)" : text
}
