// SPDX-License-Identifier: Apache-2.0
//
// Cases about the buffers of receives. Those about memory that is not there (EFAULT) have no counterpart here: this side
// leaves the socket as the kernel's failed call would, and goes on.

import Vsock
import VsockWire

enum BufferCases {
    private static let recordByteCount = 3 * TestData.pageByteCount

    static let invalidReceiveBuffer = TestCase(
        "SOCK_SEQPACKET invalid receive buffer",
        client: { side in
            let socket = try side.connect(.seqpacket)
            for letter in "ab".utf8 { try socket.send([UInt8](repeating: letter, count: recordByteCount)) }
            socket.close()
        },
        server: { side in
            let socket = try side.accept(.seqpacket)
            // The record that a buffer with a hole would have cost.
            _ = try socket.receive(recordByteCount)
            let record = try socket.receive(recordByteCount)
            guard record.allSatisfy({ $0 == UInt8(ascii: "b") }) else { throw Failure("records are mixed") }
            socket.close()
        },
        note: "the server reads the first record instead of losing it by EFAULT")

    private static let byteCount = 512

    static func invalidBuffer(_ type: SocketType) -> TestCase {
        TestCase(
            "\(type.testName) test invalid buffer",
            client: { side in
                let socket = try side.connect(type)
                try side.control.expect("SENDDONE")
                _ = try socket.receive(byteCount)
                try socket.expectReceive(byteCount, fails: .wouldBlock)
                try side.control.write("DONE")
                socket.close()
            },
            server: { side in
                let socket = try side.accept(type)
                try socket.send([UInt8](repeating: 0, count: byteCount))
                try side.control.write("SENDDONE")
                try side.control.expect("DONE")
                socket.close()
            },
            note: "the client makes no receive that fails by EFAULT")
    }

    static let merge = TestCase(
        "SOCK_STREAM virtio skb merge",
        client: { side in
            let socket = try side.connect(.stream)
            for (number, word) in ["HELLO", "WORLD"].enumerated() {
                try socket.send(Array(word.utf8))
                try side.control.write("SEND\(number)")
                try side.control.expect("REPLY\(number)")
            }
            socket.close()
        },
        server: { side in
            let socket = try side.accept(.stream)
            try side.control.expect("SEND0")
            var text = try socket.receive(2)
            try side.control.write("REPLY0")
            try side.control.expect("SEND1")
            text += try socket.receive(8)
            try socket.expectReceive(64, fails: .wouldBlock)
            guard text == Array("HELLOWORLD".utf8) else {
                throw Failure("\"\(String(decoding: text, as: UTF8.self))\" was received")
            }
            try side.control.write("REPLY1")
            socket.close()
        })
}
