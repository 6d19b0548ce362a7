// SPDX-License-Identifier: Apache-2.0
//
// Cases about connections: made, refused, half closed and closed.

import Vsock
import VsockCore
import VsockSystem
import VsockWire

enum ConnectionCases {
    static let connectionReset = TestCase(
        "SOCK_STREAM connection reset",
        client: { side in
            try side.makeSocket(.stream).expectConnect(to: side.peer, fails: .connectionReset)
        })

    static let bindOnly = TestCase(
        "SOCK_STREAM bind only",
        client: { side in
            try side.control.expect("BIND")
            try side.makeSocket(.stream).expectConnect(to: side.peer, fails: .connectionReset)
            try side.control.write("DONE")
        },
        server: { side in
            let socket = try side.makeSocket(.stream)
            try socket.bind(to: VsockAddress(cid: .any, port: side.port))
            try side.control.write("BIND")
            try side.control.expect("DONE")
            socket.close()
        })

    static let clientClose = TestCase(
        "SOCK_STREAM client close",
        client: { side in try sendByteAndClose(side.connect(.stream)) },
        server: { side in try checkClosed(side.accept(.stream)) })

    static let serverClose = TestCase(
        "SOCK_STREAM server close",
        client: { side in try checkClosed(side.connect(.stream)) },
        server: { side in try sendByteAndClose(side.accept(.stream)) })

    private static func sendByteAndClose(_ socket: TestSocket) throws {
        try socket.sendByte()
        socket.close()
    }

    /// The peer has sent a byte and closed: nothing can be sent, the byte is there, and then the end.
    private static func checkClosed(_ socket: TestSocket) throws {
        try socket.waitForPeerClose()
        try socket.expectSend(TestSocket.byte, fails: .brokenPipe)
        try socket.receiveByte()
        try socket.expectEnd()
        socket.close()
    }

    private static let connectionCount = 100

    static let multipleConnections = TestCase(
        "SOCK_STREAM multiple connections",
        client: { side in
            let sockets = try (0..<connectionCount).map { _ in try side.connect(.stream) }
            try exchange(sockets) { $0.isMultiple(of: 2) }
        },
        server: { side in
            let sockets = try (0..<connectionCount).map { _ in try side.accept(.stream) }
            try exchange(sockets) { !$0.isMultiple(of: 2) }
        })

    private static func exchange(_ sockets: [TestSocket], sends: (Int) -> Bool) throws {
        for (number, socket) in sockets.enumerated() {
            if sends(number) { try socket.sendByte() } else { try socket.receiveByte() }
        }
        for socket in sockets { socket.close() }
    }

    static let shutdownSend = TestCase(
        "SOCK_STREAM SHUT_WR",
        client: { side in
            let socket = try side.connect(.stream)
            try socket.shutdown(.send)
            try socket.expectSend(TestSocket.byte, fails: .brokenPipe)
            try side.control.write("CLIENTDONE")
            socket.close()
        },
        server: { side in
            let socket = try side.accept(.stream)
            try side.control.expect("CLIENTDONE")
            socket.close()
        },
        note: "without SIGPIPE")

    static let shutdownReceive = TestCase(
        "SOCK_STREAM SHUT_RD",
        client: { side in
            let socket = try side.connect(.stream)
            try side.control.expect("SHUTRDDONE")
            try sendUntilRefused(socket)
            try side.control.write("CLIENTDONE")
            socket.close()
        },
        server: { side in
            let socket = try side.accept(.stream)
            try socket.shutdown(.receive)
            try side.control.write("SHUTRDDONE")
            try side.control.expect("CLIENTDONE")
            socket.close()
        },
        note: "without SIGPIPE")

    /// The peer takes no more. The word of that may overtake the packet, so bytes are sent until it has come.
    private static func sendUntilRefused(_ socket: TestSocket) throws {
        let deadline = MonotonicClock.now() + TestSide.waitNanoseconds
        while MonotonicClock.now() < deadline {
            if try socket.isRefused() { return }
        }
        throw Failure("send: the peer takes no more, and sends go on to succeed")
    }

    static let doubleBindConnect = TestCase(
        "SOCK_STREAM double bind connect",
        client: { side in
            for _ in 0..<2 {
                try side.control.expect("LISTENING")
                let socket = try connectFromNextPort(side)
                socket.close()
            }
        },
        server: { side in
            let listener = try side.listen(.stream)
            for _ in 0..<2 {
                try side.control.write("LISTENING")
                try listener.accept().waitForPeerClose()
            }
            listener.close()
        },
        needs: [.localPort])

    /// Connects from the port after the peer's. The last connection from there may be in its last moments: its peer
    /// knows of the end, and this side not yet.
    private static func connectFromNextPort(_ side: TestSide) throws -> TestSocket {
        let local = VsockAddress(cid: .any, port: VsockAddress.Port(rawValue: side.port.rawValue &+ 1))
        let deadline = MonotonicClock.now() + TestSide.waitNanoseconds
        while true {
            let socket = try side.makeSocket(.stream)
            try socket.set(.connectTimeout(.nanoseconds(TestSide.waitNanoseconds)))
            do throws(SocketError) {
                try socket.socket.bind(to: local)
                try socket.socket.connect(to: side.peer)
                return socket
            } catch {
                guard error == .addressInUse, MonotonicClock.now() < deadline else {
                    throw Failure("connect from port \(local.port.rawValue): \(Errno(rawValue: error.errno))")
                }
            }
        }
    }
}
