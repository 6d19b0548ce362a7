// SPDX-License-Identifier: Apache-2.0
//
// A monitor that shortens the file behind its guest's memory while the device uses it: its session ends, and nothing
// else does.

import Glibc
import Testing
import VhostUser
import VirtioQueue
import VsockSystem
import VsockTestSupport
import VsockWire

@testable import VsockTransport

@Suite("Memory that a monitor takes away")
struct LostMemoryTests {
    private static let transmit = VsockDevice.QueueIndex.transmit
    private static let extraAddress: UInt64 = 1 << 40
    private static let extraByteCount = 65536
    /// For the whole process, once.
    private static let survives: Bool = (try? MemoryFaults.survive()) != nil

    /// A region of a guest's memory in a file that can become shorter.
    private struct Extra {
        let file: SharedFileDescriptor
        let mapping: MemoryMapping

        init(_ guest: RingGuest) throws {
            let directory = try TemporaryDirectory()
            let raw = open(directory.file("memory"), O_CREAT | O_RDWR | O_CLOEXEC, 0o600)
            try #require(raw >= 0 && ftruncate(raw, off_t(extraByteCount)) == 0)
            file = SharedFileDescriptor(OwnedFileDescriptor(owning: raw))
            mapping = try MemoryMapping(descriptor: raw, byteCount: extraByteCount)
            let region = MemoryRegion(
                guestAddress: extraAddress, byteCount: UInt64(extraByteCount), userAddress: 1 << 50, mmapOffset: 0)
            try guest.frontend.perform(.addMemoryRegion(region), [raw])
        }

        func shorten() throws { try #require(ftruncate(file.rawValue, 0) == 0) }

        func descriptor(_ byteCount: Int, flags: UInt16 = 0) -> Descriptor {
            Descriptor(address: extraAddress, byteCount: UInt32(byteCount), flags: flags, next: 0)
        }
    }

    /// The device that all of this is about, and one of another monitor in the same process.
    private struct Pair {
        let device: TestDevice
        let guest: RingGuest
        let host: HostProgram
        let extra: Extra

        init() throws {
            try #require(LostMemoryTests.survives)
            device = try TestDevice()
            let listener = try device.listen(.stream, port: 5000)
            guest = try RingGuest(device)
            try guest.post([64])
            try guest.send(guest.packet(.request))
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
        let directory = try TemporaryDirectory()
        let file = open(directory.file("memory"), O_CREAT | O_RDWR | O_CLOEXEC, 0o600)
        defer { close(file) }
        let count = Int(whole.byteCount)
        try #require(write(file, lost.guest.memory.mapping.base, count) == count)
        try lost.guest.frontend.perform(.setMemoryTable([whole]), [file])
        try #require(ftruncate(file, 0) == 0)
        lost.guest.kick(Self.transmit)
        try lost.expectEnd()
    }

    @Test("payload that is gone when the kernel is to take it ends its connection")
    func payload() throws {
        let lost = try Pair()
        let header = lost.guest.place(lost.guest.packet(.readWrite, payloadByteCount: 5000).encoded)
        try lost.extra.shorten()
        try lost.guest.post([64])
        lost.guest.rings[Self.transmit].submit([header, lost.extra.descriptor(5000)])
        lost.guest.kick(Self.transmit)
        #expect(try lost.guest.next()?.header.operation == .reset)
        #expect(try lost.host.receive() == nil)
        #expect(try lost.device.inspect { $0.isReady })
    }

    @Test("room that is gone when the kernel is to fill it ends its connection, or the session")
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
    }
}
