// SPDX-License-Identifier: Apache-2.0
//
// Cases about records.

import Vsock
import VsockCore
import VsockSystem
import VsockTransport
import VsockWire

enum RecordCases {
    private static let bufferByteCount = 2 << 20
    private static let maximumByteCount = 4 * TestData.pageByteCount

    static let messageBounds = TestCase(
        "SOCK_SEQPACKET msg bounds",
        client: { side in
            let socket = try side.connect(.seqpacket)
            try enlarge(socket)
            try side.control.expect("SRVREADY")
            var sum: UInt64 = 0
            let count = bufferByteCount / maximumByteCount
            for number in 0..<count {
                let range =
                    number.isMultiple(of: 2)
                    ? 1...TestData.pageByteCount : TestData.pageByteCount...(maximumByteCount - 1)
                let record = [UInt8](repeating: .random(in: 0...255), count: .random(in: range))
                let endOfRecord = number == count / 2 || Bool.random()
                try socket.send(record, endOfRecord: endOfRecord)
                sum &+= TestData.hash(record) &+ (endOfRecord ? 1 : 0)
            }
            try side.control.write("SENDDONE")
            try side.control.write("\(sum)")
            socket.close()
        },
        server: { side in
            let socket = try side.accept(.seqpacket)
            try enlarge(socket)
            try side.control.write("SRVREADY")
            try side.control.expect("SENDDONE")
            var sum: UInt64 = 0
            while true {
                let (record, result) = try socket.receiveOnce(maximumByteCount)
                if result.isEnd { break }
                sum &+= TestData.hash(record) &+ (result.endOfRecord ? 1 : 0)
            }
            socket.close()
            guard try side.control.readNumber() == sum else { throw Failure("bounds of records are not kept") }
        },
        needs: [.bufferSize, .endOfRecord])

    private static func enlarge(_ socket: TestSocket) throws {
        try socket.set(.bufferMaximumSize(UInt64(bufferByteCount)))
        try socket.set(.bufferSize(UInt64(bufferByteCount)))
    }

    /// A record of 32 bytes for a buffer of 16.
    private static let truncatedByteCount = 32

    static let truncation = TestCase(
        "SOCK_SEQPACKET MSG_TRUNC flag",
        client: { side in try sendTruncated(side) }, server: { side in try receiveTruncated(side) })

    static func sendTruncated(_ side: TestSide) throws {
        let socket = try side.connect(.seqpacket)
        try socket.send(TestData.random(truncatedByteCount))
        try side.control.write("SENDDONE")
        socket.close()
    }

    static func receiveTruncated(_ side: TestSide) throws {
        let socket = try side.accept(.seqpacket)
        try side.control.expect("SENDDONE")
        let result = try socket.receiveOnce(truncatedByteCount / 2).result
        guard result.fullLength == truncatedByteCount, result.truncated else {
            throw Failure("a record of \(truncatedByteCount) bytes was received as \(result.fullLength)")
        }
        socket.close()
    }

    private static let timeLimit = Duration.seconds(1)

    static let receiveTimeout = TestCase(
        "SOCK_SEQPACKET timeout",
        client: { side in
            let socket = try side.connect(.seqpacket)
            try socket.set(.receiveTimeout(timeLimit))
            let start = MonotonicClock.now()
            try socket.expectReceive(1, waits: true, fails: .wouldBlock)
            let time = Duration.nanoseconds(MonotonicClock.now() - start)
            guard time >= timeLimit else { throw Failure("recv: SO_RCVTIMEO of \(timeLimit) ended after \(time)") }
            try side.control.write("WAITDONE")
            socket.close()
        },
        server: { side in
            let socket = try side.accept(.seqpacket)
            try side.control.expect("WAITDONE")
            socket.close()
        })

    static let bigMessage = TestCase(
        "SOCK_SEQPACKET big message",
        client: { side in
            let socket = try side.connect(.seqpacket)
            let record = [UInt8](repeating: 0, count: Int(clamping: socket.socket.settings.bufferSize) + 1)
            try socket.expectSend(record, fails: .messageTooLong)
            try side.control.write("CLISENT")
            socket.close()
        },
        server: { side in
            let socket = try side.accept(.seqpacket)
            try side.control.expect("CLISENT")
            socket.close()
        },
        needs: [.recordLimit])
}
