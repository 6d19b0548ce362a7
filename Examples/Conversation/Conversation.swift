// SPDX-License-Identifier: Apache-2.0
//
// One program for every transport: what it says and does is the same, and only the transport that it is given differs.
//
//     Conversation loopback                          both sides in this process
//     Conversation device:/tmp/vm3.sock listen       the host of a VM, in this process
//     Conversation driver:/tmp/vm3.sock connect      the guest of that device, or of `vsock serve`
//     Conversation uds:/tmp/vm3.vsock listen         the host of a VM that `vsock serve` serves
//     Conversation kernel connect                    a guest

import Glibc
import Vsock

@main
struct Conversation {
    static let recordPort: VsockAddress.Port = 5000
    static let streamPort: VsockAddress.Port = 5001
    /// Nobody listens there.
    static let silentPort: VsockAddress.Port = 5002

    static func main() async throws {
        let arguments = CommandLine.arguments
        guard arguments.count >= 2 else {
            print("usage: Conversation TRANSPORT [listen|connect]")
            exit(64)
        }
        let transport = try VsockTransport(arguments[1])
        let role = arguments.dropFirst(2).first
        let server = role == "connect" ? nil : try await Server(on: transport)
        try await withThrowingTaskGroup { group in
            if let server { group.addTask { try await server.run() } }
            if role != "listen" { group.addTask { try await converse(over: transport) } }
            try await group.waitForAll()
        }
    }

    /// The other side of a transport.
    static func peer(of transport: VsockTransport) throws -> VsockAddress.ContextID {
        switch try transport.localCID() {
        case .local: .local
        case .host: 3
        default: .host
        }
    }
}
