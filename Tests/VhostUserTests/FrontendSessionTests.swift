// SPDX-License-Identifier: Apache-2.0
//
// What a front-end makes of replies, good and bad, and of requests on the back-end's channel.

import Testing
import VhostUser

@Suite("Front-end session")
struct FrontendSessionTests {
    static func reply(
        to request: FrontendRequest, _ bytes: [UInt8], descriptorCount: Int = 0
    ) throws -> FrontendReply {
        var session = FrontendSession()
        _ = session.send(request)
        let body = payload(bytes)
        return try session.receive(header(bytes), payload: body.span.bytes, descriptorCount: descriptorCount)
    }

    @Test("need_reply is set once REPLY_ACK is accepted, not on getters, not on the acceptance itself")
    func needReply() throws {
        var session = FrontendSession()
        #expect(session.send(.setOwner).bytes == hex("03000000 01000000 00000000"))
        #expect(!session.awaitsReply)
        #expect(try !header(session.send(.setProtocolFeatures(.replyAck)).bytes).needsReply)
        #expect(!session.awaitsReply)
        #expect(try header(session.send(.setOwner).bytes).needsReply)
        #expect(session.awaitsReply)
        let acknowledgement = hex("0000000000000000")
        let header = MessageHeader(request: 3, isReply: true, payloadByteCount: 8)
        #expect(
            try session.receive(header, payload: acknowledgement.span.bytes, descriptorCount: 0) == .acknowledged)
        #expect(try !VhostUserTests.header(session.send(.getFeatures).bytes).needsReply)
    }

    @Test("replies are read")
    func replies() throws {
        let expected: [(FrontendRequest, String, FrontendReply)] = [
            (.getFeatures, "01000000 05000000 08000000 0200000001000000", .features(0x1_0000_0002)),
            (
                .getProtocolFeatures, "0f000000 05000000 08000000 0902000000000000",
                .protocolFeatures([.multipleQueues, .replyAck, .config])
            ),
            (.getQueueCount, "11000000 05000000 08000000 0300000000000000", .queueCount(3)),
            (.getMaxMemorySlots, "24000000 05000000 08000000 2000000000000000", .maxMemorySlots(32)),
            (.getQueueBase(queue: 1), "0b000000 05000000 08000000 01000000 07000000", .queueBase(queue: 1, 7)),
            (.getStatus, "28000000 05000000 08000000 0f00000000000000", .status(15)),
            (
                .getConfiguration(offset: 0, byteCount: 2),
                "18000000 05000000 0e000000 00000000 02000000 00000000 0304", .configuration([3, 4])
            ),
        ]
        for (request, bytes, reply) in expected {
            #expect(try Self.reply(to: request, hex(bytes)) == reply)
        }
    }

    @Test("replies that are not the one awaited are refused")
    func wrongReplies() {
        let expected: [(FrontendRequest, String, Int, VhostUserError)] = [
            (.getFeatures, "01000000 01000000 08000000 0000000000000000", 0, .wrongDirection(request: 1)),
            (
                .getFeatures, "02000000 05000000 08000000 0000000000000000", 0,
                .unexpectedReply(expected: 1, actual: 2)
            ),
            (
                .setOwner, "03000000 05000000 08000000 0000000000000000", 0,
                .unexpectedReply(expected: nil, actual: 3)
            ),
            (
                .getFeatures, "01000000 05000000 07000000 00000000000000", 0,
                .shortPayload(request: 1, needed: 8, actual: 7)
            ),
            (
                .getFeatures, "01000000 05000000 08000000 0000000000000000", 1,
                .wrongDescriptorCount(request: 1, expected: 0, actual: 1)
            ),
            (
                .getQueueBase(queue: 1), "0b000000 05000000 08000000 02000000 07000000", 0,
                .invalidValue(request: .getVringBase, value: 0x7_0000_0002)
            ),
            (
                .getQueueBase(queue: 1), "0b000000 05000000 08000000 01000000 00000100", 0,
                .invalidValue(request: .getVringBase, value: 0x1_0000_0000_0001)
            ),
            (
                .getStatus, "28000000 05000000 08000000 0001000000000000", 0,
                .invalidValue(request: .getStatus, value: 256)
            ),
            (
                .getConfiguration(offset: 0, byteCount: 8), "18000000 05000000 00000000", 0,
                .requestFailed(.getConfig, code: 0)
            ),
            (
                .getConfiguration(offset: 0, byteCount: 2),
                "18000000 05000000 0d000000 00000000 02000000 00000000 03", 0,
                .shortPayload(request: 24, needed: 14, actual: 13)
            ),
            (
                .getConfiguration(offset: 0, byteCount: 2),
                "18000000 05000000 0e000000 01000000 02000000 00000000 0304", 0,
                .invalidValue(request: .getConfig, value: 2)
            ),
        ]
        for (request, bytes, descriptorCount, error) in expected {
            #expect(throws: error) {
                try Self.reply(to: request, hex(bytes), descriptorCount: descriptorCount)
            }
        }
    }

    @Test("requests of the back-end that a front-end cannot serve are refused")
    func backendRequests() {
        func read(_ bytes: [UInt8], descriptorCount: Int = 0) throws -> BackendNotification {
            let body = payload(bytes)
            return try BackendNotification(
                header(bytes), payload: body.span.bytes, descriptorCount: descriptorCount)
        }
        #expect(throws: VhostUserError.unknownRequest(77)) { try read(rawMessage(77)) }
        #expect(throws: VhostUserError.unsupportedBackendRequest(.iotlbMessage)) { try read(rawMessage(1)) }
        #expect(throws: VhostUserError.malformedBackendRequest(.configChange)) {
            try read(rawMessage(2), descriptorCount: 1)
        }
        #expect(throws: VhostUserError.malformedBackendRequest(.configChange)) { try read(rawMessage(2, flags: 5)) }
        #expect(throws: VhostUserError.malformedBackendRequest(.vringCall)) {
            try read(rawMessage(4, payload: [0, 0, 0, 0]))
        }
    }
}
