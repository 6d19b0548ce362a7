// SPDX-License-Identifier: Apache-2.0
//
// The cases that the RFC v5 series adds to vsock_test.

import Vsock
import VsockTransport
import VsockWire

enum SeriesCases {
    private static let recordCount = 7
    /// The record that is sent with MSG_EOR.
    private static let markedNumber = recordCount / 2

    static let endOfRecord = TestCase(
        "SOCK_SEQPACKET send data MSG_EOR",
        client: { side in
            let socket = try side.connect(.seqpacket)
            for number in 0..<recordCount { try socket.send(TestSocket.byte, endOfRecord: number == markedNumber) }
            try side.control.write("SENDDONE")
            socket.close()
        },
        server: { side in
            let socket = try side.accept(.seqpacket)
            try side.control.expect("SENDDONE")
            for number in 0..<recordCount {
                let result = try socket.receiveOnce(16).result
                guard result.count == 1 else { throw Failure("record \(number) has \(result.count) bytes, not 1") }
                guard result.endOfRecord == (number == markedNumber) else {
                    throw Failure("record \(number) was received \(result.endOfRecord ? "with" : "without") MSG_EOR")
                }
            }
            socket.close()
        },
        needs: [.endOfRecord])

    static let truncation = TestCase(
        "SOCK_SEQPACKET send data MSG_TRUNC",
        client: { side in try RecordCases.sendTruncated(side) },
        server: { side in try RecordCases.receiveTruncated(side) })
}
