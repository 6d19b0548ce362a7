// SPDX-License-Identifier: Apache-2.0
//
// Every message byte by byte, from the layouts of vhost-user.rst "Payload" and its lists of message types.

import Testing
import VhostUser

@Suite("Golden bytes")
struct GoldenMessageTests {
    static let addresses = VringAddress(
        descriptorTable: 0x1122_3344_5566_7788, usedRing: 0x2000, availableRing: 0x3000, logGuestAddress: 0x4000,
        logsUsedRing: true)

    static let regionBytes = "0010000000000000 0000004000000000 00000000007f0000 0020000000000000"

    /// Request, its descriptors, header and payload.
    static let requests: [(FrontendRequest, Int, String)] = [
        (.getFeatures, 0, "01000000 01000000 00000000"),
        (.setFeatures(0x1_2000_0002), 0, "02000000 01000000 08000000 0200002001000000"),
        (.setOwner, 0, "03000000 01000000 00000000"),
        (.resetOwner, 0, "04000000 01000000 00000000"),
        (.setMemoryTable([.low]), 1, "05000000 01000000 28000000 01000000 00000000" + regionBytes),
        (.setMemoryTable([]), 0, "05000000 01000000 08000000 00000000 00000000"),
        (.setQueueSize(queue: 2, size: 256), 0, "08000000 01000000 08000000 02000000 00010000"),
        (
            .setQueueAddresses(queue: 1, addresses), 0,
            "09000000 01000000 28000000 01000000 01000000 8877665544332211 0020000000000000 0030000000000000"
                + "0040000000000000"
        ),
        (.setQueueBase(queue: 1, 0xfffe), 0, "0a000000 01000000 08000000 01000000 feff0000"),
        (.getQueueBase(queue: 1), 0, "0b000000 01000000 08000000 01000000 00000000"),
        (.setKick(queue: 2, hasDescriptor: true), 1, "0c000000 01000000 08000000 0200000000000000"),
        (.setKick(queue: 2, hasDescriptor: false), 0, "0c000000 01000000 08000000 0201000000000000"),
        (.setCall(queue: 1, hasDescriptor: true), 1, "0d000000 01000000 08000000 0100000000000000"),
        (.setCall(queue: 0, hasDescriptor: false), 0, "0d000000 01000000 08000000 0001000000000000"),
        (.setError(queue: 0, hasDescriptor: true), 1, "0e000000 01000000 08000000 0000000000000000"),
        (.getProtocolFeatures, 0, "0f000000 01000000 00000000"),
        (.setProtocolFeatures([.replyAck, .config]), 0, "10000000 01000000 08000000 0802000000000000"),
        (.getQueueCount, 0, "11000000 01000000 00000000"),
        (.setQueueEnabled(queue: 1, true), 0, "12000000 01000000 08000000 01000000 01000000"),
        (.setQueueEnabled(queue: 1, false), 0, "12000000 01000000 08000000 01000000 00000000"),
        (.setBackendChannel, 1, "15000000 01000000 00000000"),
        (
            .getConfiguration(offset: 0, byteCount: 8), 0,
            "18000000 01000000 14000000 00000000 08000000 00000000 0000000000000000"
        ),
        (
            .setConfiguration(offset: 4, bytes: [1, 2], isMigration: true), 0,
            "19000000 01000000 0e000000 04000000 02000000 01000000 0102"
        ),
        (.resetDevice, 0, "22000000 01000000 00000000"),
        (.kick(queue: 1), 0, "23000000 01000000 08000000 01000000 00000000"),
        (.getMaxMemorySlots, 0, "24000000 01000000 00000000"),
        (.addMemoryRegion(.low), 1, "25000000 01000000 28000000 0000000000000000" + regionBytes),
        (.removeMemoryRegion(.low), 0, "26000000 01000000 28000000 0000000000000000" + regionBytes),
        (.setStatus(15), 0, "27000000 01000000 08000000 0f00000000000000"),
        (.getStatus, 0, "28000000 01000000 00000000"),
    ]

    @Test("a front-end emits each request", arguments: requests.indices)
    func emission(_ index: Int) {
        let (request, descriptorCount, bytes) = Self.requests[index]
        let message = request.message()
        #expect(message.bytes == hex(bytes))
        #expect(message.descriptorCount == descriptorCount)
    }

    /// What the back-end is to do for the requests above, in their order.
    static let actions: [BackendRequest.Action] = [
        .none, .setFeatures(0x1_2000_0002), .setOwner, .resetOwner, .setMemoryTable([.low]), .setMemoryTable([]),
        .setQueueSize(queue: 2, size: 256), .setQueueAddresses(queue: 1, addresses),
        .setQueueBase(queue: 1, 0xfffe), .getQueueBase(queue: 1), .setKick(queue: 2, hasDescriptor: true),
        .setKick(queue: 2, hasDescriptor: false), .setCall(queue: 1, hasDescriptor: true),
        .setCall(queue: 0, hasDescriptor: false), .setError(queue: 0, hasDescriptor: true), .none,
        .setProtocolFeatures([.replyAck, .config]), .none, .setQueueEnabled(queue: 1, true),
        .setQueueEnabled(queue: 1, false), .setBackendChannel,
        .getConfiguration(offset: 0, byteCount: 8, flags: 0),
        .setConfiguration(offset: 4, bytes: [1, 2], isMigration: true), .resetDevice, .kick(queue: 1), .none,
        .addMemoryRegion(.low), .removeMemoryRegion(.low), .setStatus(15), .none,
    ]

    static func backend(for request: FrontendRequest) throws -> BackendSession {
        var session = BackendSession.socketDevice([.ofSocketDevice, .inbandNotifications])
        if case .removeMemoryRegion = request { try session.handle(.setMemoryTable([.low])) }
        return session
    }

    @Test("a back-end reads each request", arguments: requests.indices)
    func reading(_ index: Int) throws {
        let (request, descriptorCount, bytes) = Self.requests[index]
        let session = try Self.backend(for: request)
        let received = try session.receive(hex(bytes), descriptorCount: descriptorCount)
        #expect(received.action == Self.actions[index])
        #expect(received.type == request.type)
        #expect(received.claimedDescriptorCount == descriptorCount)
        #expect(!received.needsReply)
    }

    @Test("bytes behind the meaning of a message are tolerated", arguments: requests.indices)
    func trailingBytes(_ index: Int) throws {
        let (request, descriptorCount, bytes) = Self.requests[index]
        let session = try Self.backend(for: request)
        var message = hex(bytes) + [UInt8](repeating: 0xee, count: 32)
        message[8] += 32
        let received = try session.receive(message, descriptorCount: descriptorCount)
        #expect(received.action == Self.actions[index])
    }

    @Test("a message that lacks its last byte is refused", arguments: requests.indices)
    func shortPayload(_ index: Int) throws {
        let (request, descriptorCount, bytes) = Self.requests[index]
        var message = hex(bytes)
        // GET_CONFIG needs no room for its reply: only its first 12 bytes have a meaning.
        if case .getConfiguration = request { message = Array(message.prefix(24)) }
        guard message.count > 12 else { return }
        let session = try Self.backend(for: request)
        let actual = message.count - 13
        #expect(
            throws: VhostUserError.shortPayload(request: request.type.rawValue, needed: actual + 1, actual: actual)
        ) {
            try session.receive(Array(message.dropLast()), descriptorCount: descriptorCount)
        }
    }

    @Test("every number of descriptors but the right one is refused", arguments: requests.indices)
    func descriptorCounts(_ index: Int) throws {
        let (request, descriptorCount, bytes) = Self.requests[index]
        let session = try Self.backend(for: request)
        for count in 0...9 where count != descriptorCount {
            if case .removeMemoryRegion = request, count == 1 { continue }
            #expect(
                throws: VhostUserError.wrongDescriptorCount(
                    request: request.type.rawValue, expected: descriptorCount, actual: count)
            ) {
                try session.receive(hex(bytes), descriptorCount: count)
            }
        }
    }

    @Test("a back-end answers each getter in its own form, need_reply or not", arguments: [false, true])
    func replies(_ needsReply: Bool) throws {
        var session = BackendSession.socketDevice()
        try session.handle(.setProtocolFeatures(.ofSocketDevice))
        let expected: [(FrontendRequest, BackendResult, String)] = [
            (.getFeatures, .success, "01000000 05000000 08000000 0200007001000000"),
            (.getProtocolFeatures, .success, "0f000000 05000000 08000000 29a2010000000000"),
            (.getQueueCount, .success, "11000000 05000000 08000000 0300000000000000"),
            (.getMaxMemorySlots, .success, "24000000 05000000 08000000 fd01000000000000"),
            (.getQueueBase(queue: 1), .queueBase(0x1234), "0b000000 05000000 08000000 01000000 34120000"),
            (
                .getConfiguration(offset: 0, byteCount: 8), .success,
                "18000000 05000000 14000000 00000000 08000000 00000000 0300000000000000"
            ),
            (.getStatus, .success, "28000000 05000000 08000000 0000000000000000"),
        ]
        for (request, result, bytes) in expected {
            #expect(try session.handle(request, needsReply: needsReply, result) == hex(bytes))
        }
    }

    @Test("the requests of the back-end's channel")
    func backendChannel() throws {
        let expected: [(BackendNotification, String)] = [
            (.configurationChanged, "02000000 01000000 00000000"),
            (.queueCall(1), "04000000 01000000 08000000 01000000 00000000"),
            (.queueError(2), "05000000 01000000 08000000 02000000 00000000"),
        ]
        for (notification, bytes) in expected {
            #expect(notification.message().bytes == hex(bytes))
            let body = payload(hex(bytes))
            #expect(
                try BackendNotification(header(hex(bytes)), payload: body.span.bytes, descriptorCount: 0)
                    == notification)
        }
        let asking = BackendNotification.configurationChanged.message(needsReply: true).bytes
        #expect(asking == hex("02000000 09000000 00000000"))
        #expect(
            BackendNotification.acknowledgement(of: try header(asking), success: true)?.bytes
                == hex("02000000 05000000 08000000 0000000000000000"))
        #expect(
            BackendNotification.acknowledgement(of: try header(hex("02000000 01000000 00000000")), success: true)
                == nil)
    }

    @Test("codes are those of the specification")
    func codes() {
        #expect(FrontendMessageType.allCases.map(\.rawValue) == Array(1...44))
        #expect(BackendMessageType.allCases.map(\.rawValue) == Array(1...10))
        #expect(FrontendMessageType(rawValue: 0) == nil && FrontendMessageType(rawValue: 45) == nil)
    }

    @Test("protocol features have the bits of the specification")
    func protocolFeatureBits() {
        let inOrder: [ProtocolFeatures] = [
            .multipleQueues, .logSharedMemory, .rarp, .replyAck, .mtu, .backendRequests, .crossEndian, .cryptoSession,
            .pageFault, .config, .backendSendsDescriptors, .hostNotifier, .inflightSharedMemory, .resetDevice,
            .inbandNotifications, .configureMemorySlots, .status, .xenMmap, .sharedObject, .deviceState,
            .getVringBaseInflight, .guestPhysicalAddresses, .sharedMemoryRegions,
        ]
        #expect(inOrder.map(\.rawValue) == (0..<23).map { 1 << UInt64($0) })
    }
}
