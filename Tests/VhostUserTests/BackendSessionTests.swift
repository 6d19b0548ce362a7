// SPDX-License-Identifier: Apache-2.0
//
// Acknowledgements, refusals, memory and configuration space in the back-end.

import Testing
import VhostUser

@Suite("Back-end session")
struct BackendSessionTests {
    static let success = hex("0000000000000000")
    static let failure = hex("0100000000000000")

    // MARK: REPLY_ACK

    @Test("need_reply counts only once REPLY_ACK is accepted")
    func acknowledgement() throws {
        var session = BackendSession.socketDevice()
        #expect(try session.handle(.setOwner, needsReply: true) == nil)
        try session.handle(.setProtocolFeatures(.replyAck))
        #expect(try session.handle(.setOwner) == nil)
        #expect(
            try session.handle(.setOwner, needsReply: true) == hex("03000000 05000000 08000000") + Self.success)
        #expect(
            try session.handle(.setOwner, needsReply: true, .failure)
                == hex("03000000 05000000 08000000") + Self.failure)
    }

    @Test("the message that accepts REPLY_ACK is acknowledged itself, as User Mode Linux expects")
    func acknowledgementOfAcceptance() throws {
        var session = BackendSession.socketDevice()
        let expected = hex("10000000 05000000 08000000") + Self.success
        #expect(try session.handle(.setProtocolFeatures([.replyAck, .config]), needsReply: true) == expected)
        #expect(try session.handle(.setProtocolFeatures(.config), needsReply: true) == expected)
        #expect(try session.handle(.setProtocolFeatures(.config), needsReply: true) == nil)
    }

    // MARK: Refusals

    @Test("a refusal is told to a front-end that asked, and to no other")
    func refusal() throws {
        var session = BackendSession.socketDevice()
        let asking = FrontendRequest.setFeatures(1 << 40).message(needsReply: true).bytes
        let error = VhostUserError.featuresNotOffered(1 << 40)
        #expect(throws: error) { try session.receive(asking) }
        #expect(session.refuse(try header(asking), error) == nil)
        try session.handle(.setProtocolFeatures(.replyAck))
        #expect(
            session.refuse(try header(asking), error)?.bytes == hex("02000000 05000000 08000000") + Self.failure)
        #expect(session.refuse(try header(FrontendRequest.setFeatures(1 << 40).message().bytes), error) == nil)
    }

    @Test("a violation ends the session even if the front-end asked for a reply")
    func violation() throws {
        var session = BackendSession.socketDevice()
        try session.handle(.setProtocolFeatures(.replyAck))
        let asking = try header(FrontendRequest.setOwner.message(needsReply: true).bytes)
        #expect(session.refuse(asking, .shortPayload(request: 3, needed: 8, actual: 0)) == nil)
        #expect(session.refuse(asking, .wrongDescriptorCount(request: 3, expected: 0, actual: 1)) == nil)
        #expect(session.refuse(asking, .inbandNotificationsIncomplete) == nil)
    }

    @Test("a request with a reply of another form is not answered by a refusal")
    func refusalOfGetter() throws {
        var session = BackendSession.socketDevice()
        try session.handle(.setProtocolFeatures(.replyAck))
        let message = rawMessage(31, flags: 9)
        #expect(throws: VhostUserError.unsupportedRequest(.getInflightDescriptor)) { try session.receive(message) }
        #expect(session.refuse(try header(message), .unsupportedRequest(.getInflightDescriptor)) == nil)
    }

    @Test("requests that a socket device does not serve are refused by name")
    func unsupported() {
        let session = BackendSession.socketDevice(ProtocolFeatures(rawValue: .max))
        let served: Set<UInt32> = Set(1...18).union([21, 24, 25, 31, 32]).union(34...40)
        for type in FrontendMessageType.allCases where !served.contains(type.rawValue) {
            #expect(throws: VhostUserError.unsupportedRequest(type)) {
                try session.receive(rawMessage(type.rawValue, payload: [UInt8](repeating: 0, count: 64)))
            }
        }
    }

    @Test("requests of an extension that was not offered are refused")
    func notOffered() {
        let session = BackendSession.socketDevice([])
        let requests: [FrontendRequest] = [
            .setBackendChannel, .getConfiguration(offset: 0, byteCount: 8), .resetDevice, .getMaxMemorySlots,
            .addMemoryRegion(.low), .removeMemoryRegion(.low), .getStatus, .setStatus(1), .kick(queue: 0),
            .setConfiguration(offset: 0, bytes: [], isMigration: false),
            .getInflight(InflightArea(queueCount: 3, queueSize: 8)),
            .setInflight(InflightArea(byteCount: 576, queueCount: 3, queueSize: 8)),
        ]
        for request in requests {
            #expect(throws: VhostUserError.unsupportedRequest(request.type)) { try session.receive(request) }
        }
        for code: UInt32 in [6, 7] {
            #expect(throws: VhostUserError.self) {
                try session.receive(rawMessage(code, payload: [UInt8](repeating: 0, count: 16)), descriptorCount: 1)
            }
        }
    }

    @Test("GET_QUEUE_NUM is answered without MQ")
    func queueCountWithoutMultipleQueues() throws {
        var session = BackendSession.socketDevice([])
        #expect(try session.handle(.getQueueCount) == hex("11000000 05000000 08000000 0300000000000000"))
    }

    @Test("an unknown request is refused by its code", arguments: [0, 45, 1002, .max] as [UInt32])
    func unknown(_ code: UInt32) {
        #expect(throws: VhostUserError.unknownRequest(code)) {
            try BackendSession.socketDevice().receive(rawMessage(code))
        }
        #expect(VhostUserError.unknownRequest(code).description.contains("\(code)"))
    }

    @Test("a reply is no request")
    func direction() {
        #expect(throws: VhostUserError.wrongDirection(request: 1)) {
            try BackendSession.socketDevice().receive(rawMessage(1, flags: 5))
        }
    }

    @Test("queues that do not exist are refused in every request that names one")
    func queueIndex() {
        let session = BackendSession.socketDevice([.replyAck, .backendRequests, .inbandNotifications])
        let address = VringAddress(descriptorTable: 0, usedRing: 0, availableRing: 0)
        let requests: [FrontendRequest] = [
            .setQueueSize(queue: 3, size: 1), .setQueueBase(queue: 3, 0), .getQueueBase(queue: 3),
            .setQueueEnabled(queue: 3, true), .setQueueAddresses(queue: 3, address), .kick(queue: 3),
            .setKick(queue: 3, hasDescriptor: true), .setCall(queue: 3, hasDescriptor: false),
            .setError(queue: 3, hasDescriptor: true),
        ]
        for request in requests {
            #expect(throws: VhostUserError.queueIndexOutOfRange(index: 3, queueCount: 3)) {
                try session.receive(request)
            }
        }
        #expect(throws: VhostUserError.queueIndexOutOfRange(index: .max, queueCount: 3)) {
            try session.receive(rawMessage(8, payload: hex("ffffffff 01000000")))
        }
    }

    @Test(
        "a queue's size is a power of two up to the limit", arguments: [0, 3, 1023, 2048, 65536, 1 << 31] as [UInt32])
    func queueSize(_ size: UInt32) throws {
        var session = BackendSession.socketDevice()
        for fine in [1, 2, 128, 1024] { try session.handle(.setQueueSize(queue: 0, size: fine)) }
        #expect(throws: VhostUserError.invalidQueueSize(size, limit: 1024)) {
            try session.receive(.setQueueSize(queue: 0, size: Int(size)))
        }
    }

    @Test("numbers without a meaning are refused")
    func values() {
        let session = BackendSession.socketDevice()
        #expect(throws: VhostUserError.invalidValue(request: .setVringEnable, value: 2)) {
            try session.receive(rawMessage(18, payload: hex("00000000 02000000")))
        }
        #expect(throws: VhostUserError.invalidValue(request: .setVringBase, value: 0x10000)) {
            try session.receive(rawMessage(10, payload: hex("00000000 00000100")))
        }
        #expect(throws: VhostUserError.invalidValue(request: .setStatus, value: 256)) {
            try session.receive(rawMessage(39, payload: hex("0001000000000000")))
        }
    }

    // MARK: Negotiation

    @Test("features that were not offered are refused, bit 30 always is offered")
    func features() throws {
        var session = BackendSession.socketDevice()
        #expect(throws: VhostUserError.featuresNotOffered(1 << 26)) { try session.receive(.setFeatures(1 << 26 | 2)) }
        try session.handle(.setFeatures(1 << 30 | 2))
        #expect(session.features == 1 << 30 | 2)
    }

    @Test("protocol features that were not offered are refused")
    func protocolFeatures() {
        let session = BackendSession.socketDevice([.config])
        #expect(throws: VhostUserError.protocolFeaturesNotOffered([.replyAck])) {
            try session.receive(.setProtocolFeatures([.config, .replyAck]))
        }
    }

    @Test("in-band notifications need the back-end's channel and REPLY_ACK")
    func inbandNotifications() throws {
        let all: ProtocolFeatures = [.replyAck, .backendRequests, .inbandNotifications]
        var session = BackendSession.socketDevice(all)
        for lacking: ProtocolFeatures in [.replyAck, .backendRequests] {
            #expect(throws: VhostUserError.inbandNotificationsIncomplete) {
                try session.receive(.setProtocolFeatures(all.subtracting(lacking)))
            }
        }
        try session.handle(.setProtocolFeatures(all))
        #expect(session.protocolFeatures == all)
    }

    @Test("the back-end's channel is used only where the front-end accepted it")
    func notifications() throws {
        var session = BackendSession.socketDevice([.ofSocketDevice, .inbandNotifications])
        #expect(session.message(for: .configurationChanged) == nil)
        try session.handle(.setBackendChannel)
        #expect(session.message(for: .configurationChanged) == nil)
        try session.handle(.setProtocolFeatures([.backendRequests, .config]))
        #expect(session.message(for: .configurationChanged)?.bytes == hex("02000000 01000000 00000000"))
        #expect(session.message(for: .queueCall(0)) == nil)
    }
}
