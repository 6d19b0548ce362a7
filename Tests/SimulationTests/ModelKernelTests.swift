// SPDX-License-Identifier: Apache-2.0
//
// The model of the kernel against Linux: what one does with descriptors in messages, the other does, too.

import Testing
import VsockSystem

@testable import VsockSimulation

@Suite("Model of the kernel")
struct ModelKernelTests {
    enum Kernel: CaseIterable { case linux, model }

    /// Runs a test on a kernel; on the model nothing may be open afterwards.
    private static func on(_ kernel: Kernel, _ body: () throws -> Void) throws {
        guard kernel == .model else { return try body() }
        let model = ModelKernel(seed: 0, maximumSendBuffer: 212_992)
        try Simulation.$kernel.withValue(model) { try body() }
        #expect(model.descriptorCount == 0)
    }

    private static func send(_ text: String, _ descriptors: [Int32], over socket: Int32) -> IOResult {
        Array(text.utf8).withUnsafeBytes { DescriptorIO.sendMessage(socket, from: $0, descriptors: descriptors) }
    }

    private static func receive(_ socket: Int32, _ descriptors: inout DescriptorList, limit: Int = 64) -> String? {
        var bytes = [UInt8](repeating: 0, count: limit)
        let result = bytes.withUnsafeMutableBytes {
            DescriptorIO.receiveMessage(socket, into: $0, descriptors: &descriptors)
        }
        guard case .message(let count, _) = result else { return nil }
        return String(decoding: bytes[..<count], as: UTF8.self)
    }

    @Test("an eventfd that was passed is the same eventfd", arguments: Kernel.allCases)
    func notifier(kernel: Kernel) throws {
        try Self.on(kernel) {
            let pair = try UnixSocket.makePair(.stream, nonBlocking: true)
            let notifier = try EventNotifier()
            #expect(Self.send("abc", [notifier.rawDescriptor], over: pair.first.rawValue) == .count(3))
            var descriptors = DescriptorList()
            let text = Self.receive(pair.second.rawValue, &descriptors)
            #expect(text == "abc")
            let passed = descriptors.rawValue(at: 0) ?? -1
            #expect(!EventNotifier.needsDraining(passed))
            #expect(EventNotifier.drain(passed) == .wouldBlock)
            notifier.signal()
            #expect(EventNotifier.drain(passed) == .count(8))
        }
    }

    @Test("descriptors come with the first byte, and end what one read takes of a stream", arguments: Kernel.allCases)
    func pieces(kernel: Kernel) throws {
        try Self.on(kernel) {
            let pair = try UnixSocket.makePair(.stream, nonBlocking: true)
            let notifier = try EventNotifier()
            for (text, count) in [("ab", 0), ("cd", 1), ("ef", 2)] {
                let files = [Int32](repeating: notifier.rawDescriptor, count: count)
                #expect(Self.send(text, files, over: pair.first.rawValue) == .count(2))
            }
            var descriptors = DescriptorList()
            var text: String?
            var count = 0
            text = Self.receive(pair.second.rawValue, &descriptors, limit: 3)
            #expect(text == "abc")
            count = descriptors.count
            #expect(count == 1)
            text = Self.receive(pair.second.rawValue, &descriptors)
            #expect(text == "def")
            count = descriptors.count
            #expect(count == 2)
            text = Self.receive(pair.second.rawValue, &descriptors)
            #expect(text == nil)
            count = descriptors.count
            #expect(count == 0)
        }
    }

    @Test("memory can be mapped where it was passed to, and is not watched", arguments: Kernel.allCases)
    func memory(kernel: Kernel) throws {
        try Self.on(kernel) {
            let pair = try UnixSocket.makePair(.stream, nonBlocking: true)
            let memory = try SharedMemory(name: "test", byteCount: 4096)
            memory.mapping.base.storeBytes(of: 7, as: UInt8.self)
            #expect(Self.send("m", [memory.rawDescriptor], over: pair.first.rawValue) == .count(1))
            var descriptors = DescriptorList()
            let text = Self.receive(pair.second.rawValue, &descriptors)
            #expect(text == "m")
            let passed = descriptors.rawValue(at: 0) ?? -1
            let mapping = try MemoryMapping(descriptor: passed, byteCount: 4096)
            #expect(mapping.base.load(as: UInt8.self) == 7)
            let poller = try Poller()
            var refusal: Errno?
            do throws(SystemCallError) { try poller.add(passed, .readable, token: 0) } catch { refusal = error.errno }
            #expect(refusal == .notPermitted)
        }
    }

    @Test("a socket in a message stays open until the message is gone", arguments: Kernel.allCases, [false, true])
    func inFlight(kernel: Kernel, isRead: Bool) throws {
        try Self.on(kernel) {
            let pair = try UnixSocket.makePair(.stream, nonBlocking: true)
            let passed = try UnixSocket.makePair(.stream, nonBlocking: true)
            try Self.send(passed.first, over: pair.first.rawValue)
            #expect(try Self.isHungUp(passed.second.rawValue) == false)
            if isRead {
                var byte: UInt8 = 0
                // Without room for it.
                #expect(
                    withUnsafeMutableBytes(of: &byte) { DescriptorIO.read(pair.second.rawValue, into: $0) } == .count(1)
                )
            } else {
                Self.close(pair.second)
            }
            #expect(try Self.isHungUp(passed.second.rawValue))
        }
    }

    private static func send(_ socket: consuming OwnedFileDescriptor, over connection: Int32) throws {
        #expect(send("s", [socket.rawValue], over: connection) == .count(1))
    }

    private static func close(_ socket: consuming OwnedFileDescriptor) {}

    private static func isHungUp(_ socket: Int32) throws -> Bool {
        try DescriptorIO.waitUntilReady(socket, for: .readable, timeoutNanoseconds: 0).contains(.hangUp)
    }

    @Test("the other end of a connection is recognised when it comes over it", arguments: Kernel.allCases)
    func otherEnd(kernel: Kernel) throws {
        try Self.on(kernel) {
            let pair = try UnixSocket.makePair(.stream, nonBlocking: true)
            let other = try UnixSocket.makePair(.stream, nonBlocking: true)
            let records = try UnixSocket.makePair(.seqpacket, nonBlocking: true)
            for (passed, isHarmless) in [
                (other.first.rawValue, true), (records.first.rawValue, false), (pair.first.rawValue, false),
            ] {
                #expect(Self.send("x", [passed], over: pair.first.rawValue) == .count(1))
                var descriptors = DescriptorList()
                let text = Self.receive(pair.second.rawValue, &descriptors)
                #expect(text == "x")
                let isTaken = descriptors.cannotHoldOtherEnd(of: pair.second.rawValue)
                #expect(isTaken == isHarmless)
            }
        }
    }

    @Test("a backlog takes one connection more than its number", arguments: Kernel.allCases)
    func backlog(kernel: Kernel) throws {
        let directory = try TemporaryDirectory(prefix: "model")
        try Self.on(kernel) {
            let address = try UnixAddress("\(directory.path)/s")
            let listener = try UnixListener(address, type: .stream, backlog: 1)
            let first = try UnixSocket.connect(to: address, type: .stream, nonBlocking: true)
            let second = try UnixSocket.connect(to: address, type: .stream, nonBlocking: true)
            var refusal: Errno?
            do throws(SystemCallError) {
                _ = try UnixSocket.connect(to: address, type: .stream, nonBlocking: true)
            } catch {
                refusal = error.errno
            }
            #expect(refusal == .wouldBlock)
            let accepted = try listener.accept()
            let isAccepted = accepted != nil
            #expect(isAccepted)
            _ = (first.rawValue, second.rawValue)
        }
    }
}
