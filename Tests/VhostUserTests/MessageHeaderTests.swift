// SPDX-License-Identifier: Apache-2.0
//
// The header, and the cutting of a byte stream into messages.

import Testing
import VhostUser

@Suite("Message header and reader")
struct MessageHeaderTests {
    @Test("a header is request, flags and size, little-endian")
    func goldenHeader() throws {
        var bytes: [UInt8] = []
        MessageHeader(request: 24, needsReply: true, payloadByteCount: 0x10c).emit(to: &bytes)
        #expect(bytes == hex("18000000 09000000 0c010000"))
        let parsed = try header(bytes)
        #expect(parsed.request == 24 && parsed.needsReply && !parsed.isReply && parsed.payloadByteCount == 0x10c)
        #expect(try header(hex("01000000 05000000 08000000")).isReply)
    }

    @Test("bits of the flags that nobody defined are ignored")
    func undefinedFlags() throws {
        #expect(try header(hex("01000000 f1ffffff 00000000")).request == 1)
    }

    @Test("a version other than 1 is refused", arguments: [0, 2, 3] as [UInt8])
    func version(_ version: UInt8) {
        #expect(throws: VhostUserError.wrongVersion(UInt32(version))) {
            try header([1, 0, 0, 0, version, 0, 0, 0, 0, 0, 0, 0])
        }
    }

    @Test("a payload above the limit is refused, at the limit it is not")
    func payloadLimit() throws {
        #expect(try header(hex("01000000 01000000 00100000")).payloadByteCount == MessageHeader.payloadLimit)
        #expect(throws: VhostUserError.payloadTooLarge(byteCount: 4097)) {
            try header(hex("01000000 01000000 01100000"))
        }
        #expect(throws: VhostUserError.payloadTooLarge(byteCount: .max)) {
            try header(hex("01000000 01000000 ffffffff"))
        }
    }

    @Test("fewer than 12 bytes are no header")
    func shortHeader() {
        #expect(throws: VhostUserError.shortHeader(byteCount: 11)) { try header([UInt8](repeating: 1, count: 11)) }
    }

    @Test("the reader yields the same messages for every size of the pieces", arguments: 1...40)
    func pieces(_ size: Int) throws {
        let requests: [FrontendRequest] = [
            .getFeatures, .setFeatures(7), .setMemoryTable([.low, .high]), .setOwner,
            .getConfiguration(offset: 0, byteCount: 8),
        ]
        var stream = requests.flatMap { $0.message().bytes }[...]
        var reader = MessageReader()
        var messages: [Message] = []
        while !stream.isEmpty {
            #expect(reader.bytesNeeded > 0)
            let message = try reader.fill { room in
                let piece = stream.prefix(min(size, room.count))
                room.copyBytes(from: piece)
                stream.removeFirst(piece.count)
                return piece.count
            }
            if let message { messages.append(message) }
        }
        let tableReceived = try BackendSession.socketDevice().receive(messages[2], descriptorCount: 2)
        #expect(tableReceived.action == .setMemoryTable([.low, .high]))
        #expect(!reader.isInsideMessage)
        #expect(messages.map(\.payload) == requests.map { payload($0.message().bytes) })
        #expect(messages.map(\.header.request) == requests.map(\.type.rawValue))
    }

    @Test("the reader never asks for bytes of the next message")
    func exactNeed() throws {
        var reader = MessageReader()
        #expect(reader.bytesNeeded == 12)
        #expect(try reader.fill { _ in 0 } == nil)
        #expect(!reader.isInsideMessage)
        let start = FrontendRequest.setFeatures(1).message().bytes.prefix(12)
        #expect(
            try reader.fill {
                $0.copyBytes(from: start)
                return 12
            } == nil)
        #expect(reader.bytesNeeded == 8 && reader.isInsideMessage)
    }

    @Test("the reader refuses a size above the limit before it reads the payload")
    func readerRefuses() {
        var reader = MessageReader()
        #expect(throws: VhostUserError.payloadTooLarge(byteCount: 0x8000_0000)) {
            try reader.fill {
                $0.copyBytes(from: hex("01000000 01000000 00000080"))
                return 12
            }
        }
    }
}
