// SPDX-License-Identifier: Apache-2.0

import Glibc
import Testing

@testable import VsockSystem

@Suite struct UnixListenerTests {
    let directory: TemporaryDirectory

    init() throws { directory = try TemporaryDirectory() }

    @Test(
        "a connection is accepted, non-blocking, and carries bytes both ways",
        arguments: [UnixSocketType.stream, .seqpacket])
    func accepts(type: UnixSocketType) throws {
        let address = try UnixAddress(directory.file("s"))
        let listener = try UnixListener(address, type: type)
        let isEarly = try listener.accept() == nil
        #expect(isEarly)
        let client = try UnixSocket.connect(to: address, type: type, nonBlocking: true)
        guard let server = try listener.accept() else { throw SystemCallError(call: "accept4", errno: .wouldBlock) }
        #expect(read(from: server.rawValue) == nil)
        #expect(send("ping", to: client.rawValue) == .count(4))
        #expect(read(from: server.rawValue) == "ping")
        #expect(send("pong", to: server.rawValue) == .count(4))
        #expect(read(from: client.rawValue) == "pong")
        #expect(try SocketOptions.socketType(server.rawValue) == type.rawValue)
        #expect(fcntl(server.rawValue, F_GETFD) & FD_CLOEXEC != 0)
        #expect(fcntl(client.rawValue, F_GETFD) & FD_CLOEXEC != 0)
    }

    @Test("the socket file has mode 0600 unless another is asked for, whatever the umask")
    func modes() throws {
        let first = try UnixListener(UnixAddress(directory.file("a")), type: .stream)
        let second = try UnixListener(UnixAddress(directory.file("b")), type: .stream, mode: 0o666)
        let third = try UnixListener(UnixAddress(directory.file("c")), type: .seqpacket, mode: 0o660)
        #expect(directory.mode("a") == 0o600)
        #expect(directory.mode("b") == 0o666)
        #expect(directory.mode("c") == 0o660)
        withExtendedLifetime((first, second, third)) {}
    }

    @Test("the file goes with the listener")
    func removesFile() throws {
        do {
            let listener = try UnixListener(UnixAddress(directory.file("s")), type: .stream)
            #expect(directory.exists("s"))
            withExtendedLifetime(listener) {}
        }
        #expect(!directory.exists("s"))
    }

    @Test("a file that replaced ours stays when the listener goes")
    func keepsForeignFile() throws {
        do {
            let listener = try UnixListener(UnixAddress(directory.file("s")), type: .stream)
            unlink(directory.file("s"))
            try leaveStaleSocket(at: directory.file("s"))
            withExtendedLifetime(listener) {}
        }
        #expect(directory.exists("s"))
    }

    @Test("a stale socket is replaced, of whichever type it was", arguments: [SOCK_STREAM, SOCK_SEQPACKET])
    func replacesStale(type: __socket_type) throws {
        try leaveStaleSocket(at: directory.file("s"), type: Int32(type.rawValue))
        let address = try UnixAddress(directory.file("s"))
        let listener = try UnixListener(address, type: .stream)
        let client = try UnixSocket.connect(to: address, type: .stream, nonBlocking: true)
        #expect(client.rawValue >= 0)
        let accepted = try listener.accept() != nil
        #expect(accepted)
    }

    @Test("a live listener is never replaced, of whichever type it is", arguments: [UnixSocketType.stream, .seqpacket])
    func keepsLive(type: UnixSocketType) throws {
        let address = try UnixAddress(directory.file("s"))
        let live = try UnixListener(address, type: type)
        let error = failure { () throws(SystemCallError) in _ = try UnixListener(address, type: .stream) }
        #expect(error?.errno == .addressInUse)
        #expect(error?.description.contains(address.path) == true)
        let client = try UnixSocket.connect(to: address, type: type, nonBlocking: true)
        #expect(client.rawValue >= 0)
        withExtendedLifetime(live) {}
    }

    @Test("a live listener whose backlog is full is not taken for stale")
    func keepsBusy() throws {
        let address = try UnixAddress(directory.file("s"))
        let live = try UnixListener(address, type: .stream, backlog: 0)
        var waiting: [SharedFileDescriptor] = []
        var refusal: Errno?
        for _ in 0..<16 where refusal == nil {
            do {
                waiting.append(
                    SharedFileDescriptor(try UnixSocket.connect(to: address, type: .stream, nonBlocking: true)))
            } catch {
                refusal = error.errno
            }
        }
        #expect(refusal == .wouldBlock)
        let error = failure { () throws(SystemCallError) in _ = try UnixListener(address, type: .stream) }
        #expect(error?.errno == .addressInUse)
        #expect(directory.exists("s"))
        withExtendedLifetime((live, waiting)) {}
    }

    @Test("a datagram socket that is in use is not replaced")
    func keepsDatagram() throws {
        let path = directory.file("s")
        let address = try UnixAddress(path)
        let descriptor = socket(AF_UNIX, Int32(SOCK_DGRAM.rawValue), 0)
        defer { close(descriptor) }
        let bound = address.withSocketAddress { bind(descriptor, $0, $1) }
        #expect(bound == 0)
        let error = failure { () throws(SystemCallError) in _ = try UnixListener(address, type: .stream) }
        #expect(error?.errno == .addressInUse)
        #expect(directory.exists("s"))
    }

    @Test("a regular file, a directory and a link are never removed")
    func keepsOtherFiles() throws {
        let file = open(directory.file("file"), O_CREAT | O_WRONLY, 0o600)
        close(file)
        try leaveStaleSocket(at: directory.file("stale"))
        #expect(symlink(directory.file("stale"), directory.file("link")) == 0)
        for name in ["file", "link"] {
            let address = try UnixAddress(directory.file(name))
            let error = failure { () throws(SystemCallError) in _ = try UnixListener(address, type: .stream) }
            #expect(error?.errno == .fileExists)
            #expect(directory.exists(name))
        }
        let address = try UnixAddress(directory.path)
        let error = failure { () throws(SystemCallError) in _ = try UnixListener(address, type: .stream) }
        #expect(error?.errno == .fileExists)
    }

    @Test("a missing directory is named in the error")
    func missingDirectory() throws {
        let address = try UnixAddress(directory.file("none/s"))
        let error = failure { () throws(SystemCallError) in _ = try UnixListener(address, type: .stream) }
        #expect(error?.description == "bind \(address.path): No such file or directory")
    }

    @Test("a path of 107 bytes is bound, one of 108 is refused and says why")
    func pathLength() throws {
        let room = UnixAddress.maximumPathByteCount - directory.file("").utf8.count
        let longest = directory.file(String(repeating: "x", count: room))
        #expect(longest.utf8.count == 107)
        let listener = try UnixListener(UnixAddress(longest), type: .stream)
        #expect(access(longest, F_OK) == 0)
        let error = failure { () throws(SystemCallError) in _ = try UnixAddress(longest + "x") }
        #expect(error?.errno == .nameTooLong)
        #expect(error?.description.contains("108 bytes, a Unix socket path has at most 107") == true)
        withExtendedLifetime(listener) {}
    }

    @Test("an empty path and one with a zero byte are refused", arguments: ["", "/tmp/a\0b"])
    func badPath(path: String) {
        let error = failure { () throws(SystemCallError) in _ = try UnixAddress(path) }
        #expect(error?.errno == .invalidArgument)
    }

    @Test("a listener for another program blocks, is private, replaces nothing, and leaves its file")
    func inheritable() throws {
        let address = try UnixAddress(directory.file("s"))
        do {
            let listener = try UnixSocket.listen(at: address, type: .stream, backlog: 1)
            #expect(directory.mode("s") == 0o600)
            #expect(fcntl(listener.rawValue, F_GETFL) & O_NONBLOCK == 0)
            #expect(fcntl(listener.rawValue, F_GETFD) == FD_CLOEXEC)
            _ = try UnixSocket.connect(to: address, type: .stream, nonBlocking: true)
            let second = failure { () throws(SystemCallError) in
                _ = try UnixSocket.listen(at: address, type: .stream, backlog: 1)
            }
            #expect(second?.errno == .addressInUse)
        }
        #expect(directory.exists("s"))
        #expect(connectError(address, .stream) == .connectionRefused)
    }

    @Test("connect says nobody listens, nothing is there, or the other type listens")
    func connectErrors() throws {
        let missing = try UnixAddress(directory.file("missing"))
        #expect(connectError(missing, .stream) == .noSuchFile)
        try leaveStaleSocket(at: directory.file("stale"))
        #expect(connectError(try UnixAddress(directory.file("stale")), .stream) == .connectionRefused)
        let address = try UnixAddress(directory.file("s"))
        let listener = try UnixListener(address, type: .seqpacket)
        #expect(connectError(address, .stream) == .wrongSocketType)
        withExtendedLifetime(listener) {}
    }

    private func connectError(_ address: UnixAddress, _ type: UnixSocketType) -> Errno? {
        failure { () throws(SystemCallError) in
            _ = try UnixSocket.connect(to: address, type: type, nonBlocking: true)
        }?.errno
    }
}
