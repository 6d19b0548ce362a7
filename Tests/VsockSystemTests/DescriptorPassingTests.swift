// SPDX-License-Identifier: Apache-2.0

import CVsockLinux
import Glibc
import Testing
import VsockSystem

@Suite struct DescriptorPassingTests {
    @Test(
        "a descriptor arrives with its message, owned and closing on exec",
        arguments: [UnixSocketType.stream, .seqpacket])
    func passesOne(type: UnixSocketType) throws {
        let pair = try UnixSocket.makePair(type, nonBlocking: true)
        let pipe = try DescriptorIO.makePipe(nonBlocking: true)
        #expect(pass("hello", [pipe.writeEnd.rawValue], over: pair.first.rawValue) == .count(5))
        var descriptors = DescriptorList()
        let (result, text) = receive(from: pair.second.rawValue, &descriptors)
        #expect(result == .message(count: 5, flags: MessageFlags(rawValue: Int32(MSG_CMSG_CLOEXEC))))
        #expect(text == "hello")
        #expect(descriptors.count == 1)
        guard let received = descriptors.take(at: 0) else { throw TestFailure() }
        #expect(received.rawValue != pipe.writeEnd.rawValue)
        #expect(fcntl(received.rawValue, F_GETFD) & FD_CLOEXEC != 0)
        #expect(write("through", to: received.rawValue) == .count(7))
        #expect(read(from: pipe.readEnd.rawValue) == "through")
        let isTaken = descriptors.take(at: 0) == nil
        #expect(isTaken)
    }

    @Test("as many as a list holds arrive in order")
    func passesMany() throws {
        let pair = try UnixSocket.makePair(.stream, nonBlocking: true)
        var notifiers: [EventNotifier] = []
        for _ in 0..<DescriptorList.capacity { notifiers.append(try EventNotifier()) }
        #expect(pass("m", notifiers.map(\.rawDescriptor), over: pair.first.rawValue) == .count(1))
        var descriptors = DescriptorList()
        let (_, text) = receive(from: pair.second.rawValue, &descriptors)
        #expect(text == "m")
        #expect(descriptors.count == DescriptorList.capacity)
        for index in notifiers.indices {
            let rawValue = descriptors.rawValue(at: index) ?? -1
            #expect(EventNotifier.signal(rawValue) == nil)
            for (other, candidate) in notifiers.enumerated() { #expect(candidate.drain() == (other == index)) }
        }
        let outside = [descriptors.rawValue(at: DescriptorList.capacity), descriptors.rawValue(at: -1)]
        #expect(outside == [nil, nil])
    }

    @Test("what is not taken is closed with the list, and by the next receive")
    func closesUntaken() throws {
        let pair = try UnixSocket.makePair(.seqpacket, nonBlocking: true)
        let first = try DescriptorIO.makePipe(nonBlocking: true)
        let second = try DescriptorIO.makePipe(nonBlocking: true)
        let firstRead = first.readEnd
        let firstWrite = first.writeEnd
        let secondRead = second.readEnd
        let secondWrite = second.writeEnd
        #expect(pass("1", [firstWrite.rawValue], over: pair.first.rawValue) == .count(1))
        #expect(pass("2", [secondWrite.rawValue], over: pair.first.rawValue) == .count(1))
        _ = consume firstWrite
        _ = consume secondWrite
        do {
            var descriptors = DescriptorList()
            #expect(receive(from: pair.second.rawValue, &descriptors).text == "1")
            #expect(receive(from: pair.second.rawValue, &descriptors).text == "2")
            #expect(descriptors.count == 1)
            #expect(try isAtEndOfFile(firstRead.rawValue))
            #expect(read(from: secondRead.rawValue) == nil)
        }
        #expect(try isAtEndOfFile(secondRead.rawValue))
    }

    @Test("a peer that sends too many is noticed, and none of them leaks")
    func tooMany() throws {
        let pair = try UnixSocket.makePair(.stream, nonBlocking: true)
        let pipe = try DescriptorIO.makePipe(nonBlocking: true)
        let readEnd = pipe.readEnd
        let writeEnd = pipe.writeEnd
        let many = [Int32](repeating: writeEnd.rawValue, count: DescriptorList.capacity + 5)
        #expect(pass("x", many, over: pair.first.rawValue) == .failed(.invalidArgument))
        #expect(sendRights(many, over: pair.first.rawValue) == 1)
        _ = consume writeEnd
        do {
            var descriptors = DescriptorList()
            let (result, _) = receive(from: pair.second.rawValue, &descriptors)
            guard case .message(1, let flags) = result else { throw TestFailure() }
            #expect(flags.contains(.controlTruncated))
            #expect(descriptors.count == DescriptorList.capacity)
        }
        #expect(try isAtEndOfFile(readEnd.rawValue))
    }

    @Test("a message without descriptors leaves the list empty, and none at all would block")
    func passesNone() throws {
        let pair = try UnixSocket.makePair(.stream, nonBlocking: true)
        var descriptors = DescriptorList()
        #expect(receive(from: pair.second.rawValue, &descriptors).result == .wouldBlock)
        #expect(pass("plain", [], over: pair.first.rawValue) == .count(5))
        #expect(receive(from: pair.second.rawValue, &descriptors).text == "plain")
        let isEmpty = descriptors.isEmpty
        #expect(isEmpty)
    }

    @Test("a list that is full refuses one more and closes it")
    func fullList() throws {
        var list = DescriptorList()
        for _ in 0..<DescriptorList.capacity {
            let accepted = list.append(OwnedFileDescriptor(owning: try EventNotifierCopy.make()))
            #expect(accepted)
        }
        let pipe = try DescriptorIO.makePipe(nonBlocking: true)
        let accepted = list.append(pipe.writeEnd)
        #expect(!accepted)
        #expect(try isAtEndOfFile(pipe.readEnd.rawValue))
        list.removeAll()
        let isEmpty = list.isEmpty
        #expect(isEmpty)
    }

    @Test("a duplicate and a shared descriptor keep the file open, a released one stays open")
    func ownership() throws {
        let pipe = try DescriptorIO.makePipe(nonBlocking: true)
        let readEnd = pipe.readEnd
        let writeEnd = pipe.writeEnd
        do {
            let shared = [SharedFileDescriptor(try writeEnd.duplicate())]
            let raw = writeEnd.release()
            close(raw)
            #expect(write("still", to: shared[0].rawValue) == .count(5))
            withExtendedLifetime(shared) {}
        }
        #expect(read(from: readEnd.rawValue) == "still")
        #expect(try isAtEndOfFile(readEnd.rawValue))
    }

    private func pass(_ text: String, _ descriptors: [Int32], over socket: Int32) -> IOResult {
        Array(text.utf8).withUnsafeBytes { DescriptorIO.sendMessage(socket, from: $0, descriptors: descriptors) }
    }

    private func receive(
        from socket: Int32, _ descriptors: inout DescriptorList
    ) -> (result: MessageResult, text: String) {
        var buffer = [UInt8](repeating: 0, count: 64)
        let result = buffer.withUnsafeMutableBytes { bytes in
            DescriptorIO.receiveMessage(socket, into: bytes, descriptors: &descriptors)
        }
        guard case .message(let count, _) = result else { return (result, "") }
        return (result, String(decoding: buffer[..<count], as: UTF8.self))
    }

    /// sendmsg without the limit of the product: what a hostile peer does.
    private func sendRights(_ descriptors: [Int32], over socket: Int32) -> Int {
        let byteCount = descriptors.count * MemoryLayout<Int32>.stride
        var control = [UInt8](repeating: 0, count: cvsock_cmsg_space(byteCount))
        var byte: UInt8 = 1
        return withUnsafeMutablePointer(to: &byte) { byte in
            var segment = iovec(iov_base: byte, iov_len: 1)
            return control.withUnsafeMutableBytes { control in
                withUnsafeMutablePointer(to: &segment) { segment in
                    var header = msghdr()
                    header.msg_iov = segment
                    header.msg_iovlen = 1
                    header.msg_control = control.baseAddress
                    header.msg_controllen = .init(control.count)
                    guard let rights = cvsock_cmsg_firsthdr(&header) else { return -1 }
                    rights.pointee.cmsg_level = SOL_SOCKET
                    rights.pointee.cmsg_type = Int32(SCM_RIGHTS)
                    rights.pointee.cmsg_len = .init(cvsock_cmsg_len(byteCount))
                    descriptors.withUnsafeBytes { source in
                        guard let base = source.baseAddress else { return }
                        cvsock_cmsg_data(rights).copyMemory(from: base, byteCount: byteCount)
                    }
                    return sendmsg(socket, &header, 0)
                }
            }
        }
    }
}

struct TestFailure: Error {}

enum EventNotifierCopy {
    /// A descriptor of its own, owned by nobody yet.
    static func make() throws -> Int32 {
        let notifier = try EventNotifier()
        let copy = fcntl(notifier.rawDescriptor, F_DUPFD_CLOEXEC, 3)
        try #require(copy >= 0)
        return copy
    }
}
