// SPDX-License-Identifier: Apache-2.0
//
// Cases about MSG_ZEROCOPY, which is between an application and its kernel: this side sends and receives the same bytes
// without it.

import Vsock
import VsockWire

enum ZeroCopyCases {
    /// What the client sends by one call.
    private struct Transfer {
        let byteCount: Int
        /// Whether a part of the memory is not there, so that nothing is sent.
        var isInvalid = false
        /// Larger than a record may be.
        var isForStreams = false
    }

    private static let page = TestData.pageByteCount

    private static let transfers = [
        Transfer(byteCount: 2 * page + 200),
        Transfer(byteCount: 6 * page),
        Transfer(byteCount: 48 * page),
        Transfer(byteCount: 2 * page + 100),
        Transfer(byteCount: 3 * page, isInvalid: true),
        Transfer(byteCount: page),
        Transfer(byteCount: 100 * page, isForStreams: true),
    ]

    static func transfers(_ type: SocketType) -> TestCase {
        TestCase(
            "\(type.testName) MSG_ZEROCOPY",
            client: { side in
                for transfer in transfers where type == .stream || !transfer.isForStreams {
                    try send(transfer, type, side)
                }
            },
            server: { side in
                for transfer in transfers where type == .stream || !transfer.isForStreams {
                    try receive(transfer, type, side)
                }
            },
            note: "the client sends without MSG_ZEROCOPY")
    }

    private static func send(_ transfer: Transfer, _ type: SocketType, _ side: TestSide) throws {
        let socket = try side.connect(type)
        let bytes = TestData.random(transfer.byteCount)
        if !transfer.isInvalid { try socket.send(bytes) }
        try side.control.write(transfer.isInvalid ? "0" : "\(TestData.hash(bytes))")
        try side.control.write("DONE")
        socket.close()
    }

    private static func receive(_ transfer: Transfer, _ type: SocketType, _ side: TestSide) throws {
        let socket = try side.accept(type)
        var bytes: [UInt8] = []
        while bytes.count < transfer.byteCount {
            let (part, result) = try socket.receiveOnce(transfer.byteCount - bytes.count)
            if result.isEnd { break }
            bytes += part
        }
        let sum = transfer.isInvalid ? 0 : TestData.hash(bytes)
        guard try side.control.readNumber() == sum else {
            throw Failure("\(bytes.count) bytes were received, and not the \(transfer.byteCount) that were sent")
        }
        try side.control.expect("DONE")
        socket.close()
    }

    static let emptyErrorQueue = TestCase(
        "SOCK_STREAM MSG_ZEROCOPY empty MSG_ERRQUEUE",
        client: { side in
            let socket = try side.connect(.stream)
            try side.control.write("DONE")
            socket.close()
        },
        server: { side in
            let socket = try side.accept(.stream)
            try side.control.expect("DONE")
            socket.close()
        },
        note: "there is no error queue to read")
}
