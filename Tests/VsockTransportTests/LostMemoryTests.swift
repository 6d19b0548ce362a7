// SPDX-License-Identifier: Apache-2.0
//
// A monitor that shortens the file behind its guest's memory while the device uses it: its session ends, and nothing
// else does.

import Glibc
import Testing
import VhostUser
import VsockSystem
import VsockTestSupport
import VsockWire

@testable import VirtioQueue
@testable import VsockTransport

@Suite("Memory that a monitor takes away")
struct LostMemoryTests {
    private static let transmit = VsockDevice.QueueIndex.transmit
    private static let extraAddress: UInt64 = 1 << 40
    private static let extraByteCount = 65536
    /// For the whole process, once.
    private static let survives: Bool = (try? MemoryFaults.survive()) != nil

    /// A file that whoever has its descriptor can shorten.
    private static func makeFile(byteCount: Int) throws -> SharedFileDescriptor {
        let directory = try TemporaryDirectory()
        let file = open(directory.file("memory"), O_CREAT | O_RDWR | O_CLOEXEC, 0o600)
        try #require(file >= 0 && ftruncate(file, off_t(byteCount)) == 0)
        return SharedFileDescriptor(OwnedFileDescriptor(owning: file))
    }

    private static func shorten(_ file: SharedFileDescriptor) throws {
        try #require(ftruncate(file.rawValue, 0) == 0)
    }

    /// A region of a guest's memory in a file that can become shorter.
    private struct Extra {
        let file: SharedFileDescriptor

        init(_ guest: RingGuest) throws {
            file = try LostMemoryTests.makeFile(byteCount: extraByteCount)
            let region = MemoryRegion(
                guestAddress: extraAddress, byteCount: UInt64(extraByteCount), userAddress: 1 << 50, mmapOffset: 0)
            try guest.frontend.perform(.addMemoryRegion(region), [file.rawValue])
        }

        func shorten() throws { try LostMemoryTests.shorten(file) }

        func descriptor(_ byteCount: Int, flags: UInt16 = 0) -> Descriptor {
            Descriptor(address: extraAddress, byteCount: UInt32(byteCount), flags: flags, next: 0)
        }
    }

    /// A device with a connection, whose guest has a region that can go.
    private struct Pair {
        let device: TestDevice
        let guest: RingGuest
        let host: HostProgram
        let extra: Extra

        init(_ type: SocketType = .stream) throws {
            try #require(LostMemoryTests.survives)
            device = try TestDevice()
            let listener = try device.listen(type == .stream ? .stream : .seqpacket, port: 5000)
            guest = try RingGuest(device)
            try guest.post([64])
            try guest.send(guest.packet(.request, type: type))
            _ = try guest.used(LostMemoryTests.transmit)
            #expect(try guest.next()?.header.operation == .response)
            host = try listener.take()
            extra = try Extra(guest)
        }

        /// The session has ended, its error descriptors say so, and the next monitor is served.
        func expectEnd() throws {
            try eventually { try device.inspect { !$0.isReady } }
            for error in guest.errors {
                let events = try DescriptorIO.waitUntilReady(
                    error.rawDescriptor, for: .readable, timeoutNanoseconds: testDeadline)
                #expect(events == .readable)
            }
            #expect(throws: VsockDriverError.self) { try guest.frontend.perform(.getFeatures, []) }
            #expect(try host.receive() == nil)
            #expect(device.log.contains("error", "memory of the monitor is gone"))
            _ = try ConnectedPair(device, try device.nextGuest(), .stream, from: .guest)
        }
    }

    @Test("a packet that is gone ends the session; another device of the process does not notice")
    func packet() throws {
        let other = try TestDevice()
        let pair = try ConnectedPair(other, try other.guest(), .stream, from: .guest)
        let lost = try Pair()
        try lost.extra.shorten()
        lost.guest.rings[Self.transmit].submit([lost.extra.descriptor(PacketHeader.byteCount)])
        lost.guest.kick(Self.transmit)
        try lost.expectEnd()
        try pair.send([1])
        #expect(try pair.host.receive() == [1])
        #expect(try other.inspect { $0.isReady })
    }

    @Test("a buffer for the guest that is gone ends the session")
    func buffer() throws {
        let lost = try Pair()
        try lost.extra.shorten()
        lost.guest.rings[VsockDevice.QueueIndex.receive].submit([
            lost.extra.descriptor(4096, flags: Descriptor.writeFlag)
        ])
        lost.guest.kick(VsockDevice.QueueIndex.receive)
        // Its answer goes into that buffer.
        try lost.guest.send(lost.guest.packet(.creditRequest))
        try lost.expectEnd()
    }

    @Test("rings that are gone end the session")
    func rings() throws {
        let lost = try Pair()
        let whole = lost.guest.region
        let count = Int(whole.byteCount)
        let file = try Self.makeFile(byteCount: count)
        try #require(write(file.rawValue, lost.guest.memory.mapping.base, count) == count)
        try lost.guest.frontend.perform(.setMemoryTable([whole]), [file.rawValue])
        try Self.shorten(file)
        lost.guest.kick(Self.transmit)
        try lost.expectEnd()
    }

    @Test(
        "payload that is gone when the kernel is to take it ends its connection: nothing is made up",
        arguments: [0, 40_000])
    func payload(present: Int) throws {
        let lost = try Pair()
        let header = lost.guest.place(lost.guest.packet(.readWrite, payloadByteCount: present + 5000).encoded)
        let good = lost.guest.place(Array(repeating: 7, count: present))
        try lost.extra.shorten()
        try lost.guest.post([64])
        lost.guest.rings[Self.transmit].submit([header] + (present > 0 ? [good] : []) + [lost.extra.descriptor(5000)])
        lost.guest.kick(Self.transmit)
        // Where the kernel has taken a part, the device finds out when it is to keep the rest, and that ends the session.
        if present == 0 { #expect(try lost.guest.next()?.header.operation == .reset) }
        #expect(try lost.host.receiveToEnd().allSatisfy { $0 == 7 })
    }

    @Test(
        "payload that is gone when it is to be kept for a slow reader is not made up",
        arguments: [SocketType.stream, .seqpacket])
    func backlog(type: SocketType) throws {
        let lost = try Pair(type)
        let byteCount = 4000
        let flags: UInt32 = type == .seqpacket ? 1 : 0
        let header = lost.guest.place(
            lost.guest.packet(.readWrite, type: type, flags: flags, payloadByteCount: byteCount).encoded)
        let payload = lost.guest.place(Array(repeating: 7, count: byteCount))
        // Until the host program's socket is full.
        var sentCount = 0
        while try lost.device.inspect({ ($0.hostSide as? HybridHost)?.backlogByteCount ?? 0 }) == 0 {
            lost.guest.rings[Self.transmit].submit([header, payload])
            lost.guest.kick(Self.transmit)
            _ = try lost.guest.used(Self.transmit)
            sentCount += 1
            try #require(sentCount < 10_000)
        }
        try lost.extra.shorten()
        lost.guest.rings[Self.transmit].submit([header, lost.extra.descriptor(byteCount)])
        lost.guest.kick(Self.transmit)
        try eventually { try lost.device.inspect { !$0.isReady } }
        let received = try lost.host.receiveToEnd()
        #expect(!received.isEmpty && received.count <= sentCount * byteCount)
        #expect(received.allSatisfy { $0 == 7 })
    }

    @Test(
        "payload that lies on the same page as a header that is gone is not made up",
        arguments: [SocketType.stream, .seqpacket])
    func samePage(type: SocketType) throws {
        let lost = try Pair(type)
        let byteCount = 1000
        let header = lost.guest.place(
            lost.guest.packet(
                .readWrite, type: type, flags: type == .seqpacket ? 1 : 0, payloadByteCount: byteCount
            ).encoded)
        try lost.extra.shorten()
        // In one batch: the second header is read before the first payload is sent.
        lost.guest.rings[Self.transmit].submit([header, lost.extra.descriptor(byteCount)])
        lost.guest.rings[Self.transmit].submit([lost.extra.descriptor(PacketHeader.byteCount)])
        lost.guest.kick(Self.transmit)
        #expect(try lost.host.receiveToEnd() == [])
        try eventually { try lost.device.inspect { !$0.isReady } }
    }

    @Test("payload that is gone does not reach another guest")
    func sibling() throws {
        try #require(Self.survives)
        let daemon = try SiblingDaemon([["a"], ["a"]])
        let other = try daemon.guest(4)
        try other.sockets.listen(.stream, port: 7)
        let received = try other.serve { try $0.receiveToEnd() }
        let guest = try RingGuest(path: daemon.socketPath(3))
        let extra = try Extra(guest)
        try guest.post([64])
        try guest.send(guest.packet(.request, to: 7, cid: 4))
        #expect(try guest.next()?.header.operation == .response)
        try guest.send(guest.packet(.readWrite, to: 7, cid: 4, payloadByteCount: 2), payload: [7, 7])
        _ = try guest.used(Self.transmit)
        let header = guest.place(guest.packet(.readWrite, to: 7, cid: 4, payloadByteCount: 5000).encoded)
        try extra.shorten()
        guest.rings[Self.transmit].submit([header, extra.descriptor(5000)])
        guest.kick(Self.transmit)
        let bytes = try received.value()
        #expect(bytes.count <= 2 && bytes.allSatisfy { $0 == 7 })
        try eventually { daemon.log.contains("error", "memory of the monitor is gone") }
    }

    @Test("the record of what is in flight reports that it is gone")
    func inflight() throws {
        try #require(Self.survives)
        let file = try Self.makeFile(byteCount: Self.extraByteCount)
        let area = InflightArea(byteCount: UInt64(Self.extraByteCount), mmapOffset: 0, queueCount: 3, queueSize: 64)
        let loss = MemoryLoss()
        let memory = try InflightMemory(area, descriptor: file.rawValue, loss: loss)
        let region = try #require(memory.region(2))
        region.take(1, counter: 1)
        #expect(!loss.hasHappened)
        try Self.shorten(file)
        region.take(2, counter: 2)
        #expect(loss.hasHappened)
    }

    @Test("room that is gone when the kernel is to fill it ends its connection")
    func room() throws {
        let lost = try Pair()
        try lost.extra.shorten()
        let head = lost.guest.room(PacketHeader.byteCount)
        lost.guest.rings[VsockDevice.QueueIndex.receive].submit([
            head, lost.extra.descriptor(4096, flags: Descriptor.writeFlag),
        ])
        lost.guest.kick(VsockDevice.QueueIndex.receive)
        try lost.host.send(Array(repeating: 7, count: 3000))
        #expect(try lost.host.receive() == nil)
        #expect(try lost.device.counters().aborted == 1)
    }
}

extension HybridHost {
    /// Bytes that wait for host programs.
    fileprivate var backlogByteCount: Int { sockets.reduce(0) { $0 + ($1?.backlog.byteCount ?? 0) } }
}
