// SPDX-License-Identifier: Apache-2.0
//
// The memory table, regions added and removed, and the configuration space.

import Testing
import VhostUser

@Suite("Memory and configuration space")
struct MemoryAndConfigurationTests {
    static func region(_ guest: UInt64, _ size: UInt64, user: UInt64, offset: UInt64 = 0) -> MemoryRegion {
        MemoryRegion(guestAddress: guest, byteCount: size, userAddress: user, mmapOffset: offset)
    }

    static func regions(_ count: Int) -> [MemoryRegion] {
        (0..<UInt64(count)).map { region($0 << 20, 1 << 20, user: 1 << 40 + $0 << 20) }
    }

    @Test("User Mode Linux: one region in a payload of the size for two")
    func userModeLinuxTable() throws {
        var session = BackendSession.socketDevice()
        var message = FrontendRequest.setMemoryTable([.low]).message().bytes
        message += [UInt8](repeating: 0, count: 32)
        message[8] = 72
        try session.handle(bytes: message, descriptorCount: 1)
        #expect(session.memoryRegions == [.low])
    }

    @Test("a table replaces the one before")
    func replacement() throws {
        var session = BackendSession.socketDevice()
        try session.handle(.setMemoryTable([.low, .high]))
        try session.handle(.setMemoryTable([.high]))
        #expect(session.memoryRegions == [.high])
        try session.handle(.setMemoryTable([.low, .high]))
        #expect(session.memoryRegions == [.low, .high])
    }

    @Test("a table has at most eight regions")
    func tableLimit() throws {
        var session = BackendSession.socketDevice()
        try session.handle(.setMemoryTable(Self.regions(8)))
        #expect(session.memoryRegions.count == 8)
        var message = FrontendRequest.setMemoryTable(Self.regions(8)).message().bytes
        message += [UInt8](repeating: 1, count: 32)
        message[8] = UInt8(8 + 9 * 32 - 256)
        for count: UInt8 in [9, 255] {
            message[12] = count
            #expect(throws: VhostUserError.tooManyMemoryRegions(count: Int(count), limit: 8)) {
                try session.receive(message, descriptorCount: 8)
            }
        }
    }

    @Test("a table that promises more regions than it holds is refused")
    func shortTable() {
        var message = FrontendRequest.setMemoryTable([.low]).message().bytes
        message[12] = 2
        #expect(throws: VhostUserError.shortPayload(request: 5, needed: 72, actual: 40)) {
            try BackendSession.socketDevice().receive(message, descriptorCount: 2)
        }
    }

    static let invalid = [
        region(0, 0, user: 0x1000),
        region(.max, 2, user: 0x1000),
        region(0, 0x2000, user: .max - 0x1000),
        region(0, 0x1000, user: 0x1000, offset: .max),
        region(0, 0x1000, user: 0x1000, offset: UInt64(Int64.max)),
        region(0, .max, user: 0),
    ]

    @Test("regions that are empty or wrap around are refused", arguments: invalid)
    func invalidRegion(_ region: MemoryRegion) {
        let session = BackendSession.socketDevice()
        for request in [FrontendRequest.setMemoryTable([region]), .addMemoryRegion(region)] {
            #expect(throws: VhostUserError.invalidMemoryRegion(region)) { try session.receive(request) }
        }
    }

    static let overlapping = [
        region(0x1000, 0x1000, user: 0x90_0000),
        region(0x0fff, 0x2, user: 0x90_0000),
        region(0x2fff, 0x1, user: 0x90_0000),
        region(0x0, 0x10000, user: 0x90_0000),
        region(0x9000, 0x1000, user: 0x1000_2000 - 1),
    ]

    @Test("regions that share guest or user addresses are refused", arguments: overlapping)
    func overlap(_ second: MemoryRegion) throws {
        let first = Self.region(0x1000, 0x2000, user: 0x1000_0000)
        var session = BackendSession.socketDevice()
        #expect(throws: VhostUserError.overlappingMemoryRegion(second)) {
            try session.receive(.setMemoryTable([first, second]))
        }
        try session.handle(.addMemoryRegion(first))
        #expect(throws: VhostUserError.overlappingMemoryRegion(second)) {
            try session.receive(.addMemoryRegion(second))
        }
    }

    @Test("regions that touch are accepted")
    func adjacent() throws {
        var session = BackendSession.socketDevice()
        try session.handle(.addMemoryRegion(Self.region(0x1000, 0x1000, user: 0x10000)))
        try session.handle(.addMemoryRegion(Self.region(0x2000, 0x1000, user: 0x11000)))
        try session.handle(.addMemoryRegion(Self.region(0x0, 0x1000, user: 0xf000)))
        #expect(session.memoryRegions.count == 3)
    }

    @Test("a region is removed by its addresses and size; the offset is ignored, one descriptor is tolerated")
    func removal() throws {
        var session = BackendSession.socketDevice()
        try session.handle(.setMemoryTable([.low, .high]))
        var named = MemoryRegion.low
        named.mmapOffset = 0xdead
        let message = FrontendRequest.removeMemoryRegion(named).message().bytes
        let request = try session.receive(message, descriptorCount: 1)
        #expect(request.action == .removeMemoryRegion(.low) && request.claimedDescriptorCount == 0)
        _ = session.complete(request, .success)
        #expect(session.memoryRegions == [.high])
        #expect(throws: VhostUserError.unknownMemoryRegion(named)) { try session.receive(message) }
    }

    @Test("regions are added up to the number of slots")
    func slots() throws {
        var session = BackendSession.socketDevice(maxMemorySlots: 3)
        for region in Self.regions(3) { try session.handle(.addMemoryRegion(region)) }
        let next = Self.regions(4)[3]
        #expect(throws: VhostUserError.tooManyMemoryRegions(count: 4, limit: 3)) {
            try session.receive(.addMemoryRegion(next))
        }
        try session.handle(.removeMemoryRegion(Self.regions(1)[0]))
        try session.handle(.addMemoryRegion(next))
        #expect(throws: VhostUserError.tooManyMemoryRegions(count: 4, limit: 3)) {
            try session.receive(.setMemoryTable(Self.regions(4)))
        }
        #expect(try session.handle(.getMaxMemorySlots) == hex("24000000 05000000 08000000 0300000000000000"))
    }

    /// Offset, size, and the bytes of the reply's region.
    static let reads: [(UInt32, UInt32, [UInt8])] = [
        (0, 8, hex("0300000000000000")),
        (0, 4, hex("03000000")),
        (4, 4, hex("00000000")),
        (0, 0, []),
        (0, 16, hex("03000000000000000000000000000000")),
        (7, 2, hex("0000")),
        (8, 4, hex("00000000")),
        (.max, 4, hex("00000000")),
        (0, 256, hex("03") + [UInt8](repeating: 0, count: 255)),
        (0, 4084, hex("03") + [UInt8](repeating: 0, count: 4083)),
    ]

    @Test("GET_CONFIG answers any range with as many bytes as were asked for", arguments: reads.indices)
    func configurationRead(_ index: Int) throws {
        let (offset, size, expected) = Self.reads[index]
        var session = BackendSession.socketDevice()
        let access = rawMessage(0, flags: offset).dropFirst(4).prefix(4) + rawMessage(size).prefix(4) + hex("01000000")
        let reply = try #require(try session.handle(bytes: rawMessage(24, payload: Array(access))))
        #expect(try header(reply).payloadByteCount == 12 + Int(size))
        #expect(payload(reply) == Array(access) + expected)
    }

    @Test("GET_CONFIG of more than a message holds is answered by the empty payload of an error")
    func configurationTooLong() throws {
        var session = BackendSession.socketDevice()
        for size in ["f50f0000", "ffffffff"] {
            let message = rawMessage(24, payload: hex("00000000 \(size) 00000000"))
            #expect(try session.handle(bytes: message) == hex("18000000 05000000 00000000"))
        }
    }

    @Test("SET_CONFIG within the space is left to the device, then remembered")
    func configurationWrite() throws {
        var session = BackendSession.socketDevice()
        let write = FrontendRequest.setConfiguration(offset: 1, bytes: [9, 8], isMigration: false)
        try session.handle(write, .failure)
        #expect(session.deviceConfiguration == hex("0300000000000000"))
        try session.handle(write)
        #expect(session.deviceConfiguration == hex("0309080000000000"))
    }

    @Test("SET_CONFIG outside of the space, or without its bytes, is refused")
    func configurationWriteOutside() {
        let session = BackendSession.socketDevice()
        #expect(throws: VhostUserError.configurationOutOfRange(offset: 7, byteCount: 2)) {
            try session.receive(.setConfiguration(offset: 7, bytes: [1, 2], isMigration: true))
        }
        #expect(throws: VhostUserError.configurationOutOfRange(offset: .max, byteCount: .max)) {
            try session.receive(rawMessage(25, payload: hex("ffffffff ffffffff 00000000")))
        }
        #expect(throws: VhostUserError.shortPayload(request: 25, needed: 16, actual: 15)) {
            try session.receive(rawMessage(25, payload: hex("00000000 04000000 00000000 010203")))
        }
    }

    @Test("SET_LOG_BASE is served where it was offered, and answered in its own form")
    func log() throws {
        var session = BackendSession.socketDevice([.logSharedMemory])
        let message = rawMessage(6, payload: hex("0010000000000000 0020000000000000"))
        let request = try session.receive(message, descriptorCount: 1)
        #expect(request.action == .setLogBase(LogArea(byteCount: 0x1000, mmapOffset: 0x2000)))
        #expect(request.claimedDescriptorCount == 1)
        #expect(
            session.complete(request, .success)?.bytes == hex("06000000 05000000 08000000 0000000000000000"))
        let signal = try session.receive(rawMessage(7), descriptorCount: 1)
        #expect(signal.action == .setLogDescriptor && signal.claimedDescriptorCount == 1)
    }
}
