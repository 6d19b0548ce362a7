// SPDX-License-Identifier: Apache-2.0
//
// Cases about SO_RCVLOWAT, credit and SIOCOUTQ.

import Vsock
import VsockSystem
import VsockTransport
import VsockWire

enum CreditCases {
    private static let markByteCount = 128

    static let pollWithLowWaterMark = TestCase(
        "SOCK_STREAM poll() + SO_RCVLOWAT",
        client: { side in
            let socket = try side.connect(.stream)
            try socket.set(.receiveLowWaterMark(markByteCount))
            try side.control.expect("SRVSENT")
            let early = socket.wait(for: .readable, nanoseconds: 1_000_000_000)
            guard early.isEmpty else { throw Failure("poll: ready with one byte of \(markByteCount)") }
            try side.control.write("CLNSENT")
            let ready = socket.wait(for: .readable)
            guard ready == .readable else { throw Failure("poll: events \(ready.rawValue), not POLLIN") }
            _ = try socket.receive(markByteCount, doesNotWait: true)
            try side.control.write("POLLDONE")
            socket.close()
        },
        server: { side in
            let socket = try side.accept(.stream)
            try socket.sendByte()
            try side.control.write("SRVSENT")
            try side.control.expect("CLNSENT")
            for _ in 1..<markByteCount { try socket.sendByte() }
            try side.control.expect("POLLDONE")
            socket.close()
        })

    // MARK: Credit updates

    private static let bufferByteCount = 128 << 10
    /// Linux's largest packet: a receiver with so much free space owes its peer no word.
    private static let packetByteCount = 64 << 10

    static let creditUpdateByLowWaterMark = TestCase(
        "SOCK_STREAM virtio credit update + SO_RCVLOWAT",
        client: { side in try sendMoreThanBuffer(side) },
        server: { side in try receiveByMark(side, setsMarkFirst: false) },
        needs: [.bufferSize])

    static let creditUpdateByLowCount = TestCase(
        "SOCK_STREAM virtio credit update + low rx_bytes",
        client: { side in try sendMoreThanBuffer(side) },
        server: { side in try receiveByMark(side, setsMarkFirst: true) },
        needs: [.bufferSize])

    private static func sendMoreThanBuffer(_ side: TestSide) throws {
        let socket = try side.connect(.stream)
        // The peer has set its buffer.
        try socket.receiveByte()
        try socket.send([UInt8](repeating: 0, count: bufferByteCount + 1))
        socket.close()
    }

    /// Half of a full buffer is read; then the mark lies above what is left, and the peer, which has one byte more, has
    /// to be told that there is space.
    private static func receiveByMark(_ side: TestSide, setsMarkFirst: Bool) throws {
        let socket = try side.accept(.stream)
        try socket.set(.bufferSize(UInt64(bufferByteCount)))
        let mark = packetByteCount + 1
        if setsMarkFirst { try socket.set(.receiveLowWaterMark(mark)) }
        try socket.sendByte()
        _ = try socket.receive(bufferByteCount, peeks: true)
        _ = try socket.receive(packetByteCount)
        if !setsMarkFirst { try socket.set(.receiveLowWaterMark(mark)) }
        let ready = socket.wait(for: [.readable, .readHangUp])
        guard ready.contains(.readable), !ready.contains(.error) else {
            throw Failure("poll: events \(ready.rawValue), not POLLIN")
        }
        _ = try socket.receive(mark, doesNotWait: true)
        socket.close()
    }

    // MARK: SIOCOUTQ

    private static let sentByteCount = 64

    static func unsentBytes(_ type: SocketType) -> TestCase {
        TestCase(
            "\(type.testName) ioctl(SIOCOUTQ) 0 unsent bytes",
            client: { side in
                let socket = try side.connect(type)
                try socket.send(TestData.random(sentByteCount))
                try side.control.expect("RECEIVED")
                // The count may come down a moment later.
                let deadline = MonotonicClock.now() + TestSide.waitNanoseconds
                while socket.socket.unsentByteCount != 0 {
                    guard MonotonicClock.now() < deadline else { throw Failure("SIOCOUTQ does not come down to 0") }
                }
                socket.close()
            },
            server: { side in
                let socket = try side.accept(type)
                _ = try socket.receive(sentByteCount)
                try side.control.write("RECEIVED")
                socket.close()
            })
    }
}
