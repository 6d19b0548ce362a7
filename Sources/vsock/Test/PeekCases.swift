// SPDX-License-Identifier: Apache-2.0
//
// Cases about MSG_PEEK.

import Vsock
import VsockWire

enum PeekCases {
    private static let byteCount = 64

    static func peek(_ type: SocketType) -> TestCase {
        TestCase(
            "\(type.testName) MSG_PEEK",
            client: { side in
                let socket = try side.connect(type)
                try side.control.expect("SRVREADY")
                try socket.send(TestData.random(byteCount))
                socket.close()
            },
            server: { side in
                let socket = try side.accept(type)
                try socket.expectReceive(byteCount, peeks: true, fails: .wouldBlock)
                try side.control.write("SRVREADY")
                let half = try socket.receive(byteCount / 2, peeks: true)
                let all = try socket.receive(byteCount, peeks: true)
                guard all.starts(with: half) else { throw Failure("MSG_PEEK of a part and of all differ") }
                if type == .seqpacket {
                    // MSG_TRUNC: the length of the record.
                    let length = try socket.receiveOnce(byteCount / 2, peeks: true).result.fullLength
                    guard length == byteCount else { throw Failure("MSG_PEEK with MSG_TRUNC gave \(length)") }
                }
                guard try socket.receive(byteCount) == all else {
                    throw Failure("what MSG_PEEK saw is not what was received")
                }
                socket.close()
            })
    }

    /// As the series had it.
    static let peekOneByte = TestCase(
        "SOCK_STREAM MSG_PEEK",
        client: { side in
            let socket = try side.connect(.stream)
            try socket.sendByte()
            socket.close()
        },
        server: { side in
            let socket = try side.accept(.stream)
            try socket.receiveByte(peeks: true)
            try socket.receiveByte()
            socket.close()
        })
}
