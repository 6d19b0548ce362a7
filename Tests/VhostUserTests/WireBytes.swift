// SPDX-License-Identifier: Apache-2.0
//
// What the tests share: bytes written as hex beside the specification's layout, and a session fed with them.

import VhostUser

/// Bytes from hex digits; blanks are for the reader.
func hex(_ digits: String) -> [UInt8] {
    let nibbles = digits.compactMap(\.hexDigitValue)
    return stride(from: 0, to: nibbles.count - 1, by: 2).map { UInt8(nibbles[$0] << 4 | nibbles[$0 + 1]) }
}

func header(_ message: [UInt8]) throws -> MessageHeader {
    try MessageHeader(parsing: message.span.bytes)
}

func payload(_ message: [UInt8]) -> [UInt8] {
    Array(message.dropFirst(MessageHeader.byteCount))
}

/// A message of a request that `FrontendRequest` does not build.
func rawMessage(
    _ request: UInt32, flags: UInt32 = 1, payload: [UInt8] = []
) -> [UInt8] {
    var bytes: [UInt8] = []
    for word in [request, flags, UInt32(payload.count)] {
        for shift in stride(from: UInt32(0), to: 32, by: 8) { bytes.append(UInt8(truncatingIfNeeded: word >> shift)) }
    }
    return bytes + payload
}

extension BackendSession {
    /// A socket device as the daemon offers it.
    static func socketDevice(
        _ features: ProtocolFeatures = .ofSocketDevice, maxMemorySlots: Int = Configuration.memorySlotLimit
    ) -> BackendSession {
        let configuration = Configuration(
            features: 1 << 32 | 1 << 29 | 1 << 28 | 1 << 1, protocolFeatures: features, queueCount: 3,
            maxQueueSize: 1024, maxMemorySlots: maxMemorySlots)
        return BackendSession(configuration, deviceConfiguration: hex("03 00 00 00 00 00 00 00"))
    }

    func receive(_ message: [UInt8], descriptorCount: Int = 0) throws -> BackendRequest {
        let body = payload(message)
        return try receive(header(message), payload: body.span.bytes, descriptorCount: descriptorCount)
    }

    func receive(_ request: FrontendRequest, needsReply: Bool = false) throws -> BackendRequest {
        let message = request.message(needsReply: needsReply)
        return try receive(message.bytes, descriptorCount: message.descriptorCount)
    }

    /// Both steps, carried out with success.
    @discardableResult
    mutating func handle(
        _ request: FrontendRequest, needsReply: Bool = false, _ result: BackendResult = .success
    ) throws -> [UInt8]? {
        complete(try receive(request, needsReply: needsReply), result)?.bytes
    }

    /// Both steps of a message of the test's own making.
    @discardableResult
    mutating func handle(
        bytes: [UInt8], descriptorCount: Int = 0, _ result: BackendResult = .success
    ) throws -> [UInt8]? {
        complete(try receive(bytes, descriptorCount: descriptorCount), result)?.bytes
    }
}

extension ProtocolFeatures {
    static let ofSocketDevice: ProtocolFeatures = [
        .multipleQueues, .replyAck, .backendRequests, .config, .resetDevice, .configureMemorySlots, .status,
    ]
}

extension MemoryRegion {
    static let low = MemoryRegion(
        guestAddress: 0x1000, byteCount: 0x4000_0000, userAddress: 0x7f00_0000_0000, mmapOffset: 0x2000)
    static let high = MemoryRegion(
        guestAddress: 0x1_0000_0000, byteCount: 0x1000_0000, userAddress: 0x7f80_0000_0000, mmapOffset: 0)
}

/// A deterministic source of random numbers (SplitMix64).
struct SeededGenerator: RandomNumberGenerator {
    var state: UInt64

    mutating func next() -> UInt64 {
        state &+= 0x9e37_79b9_7f4a_7c15
        var word = state
        word = (word ^ (word >> 30)) &* 0xbf58_476d_1ce4_e5b9
        word = (word ^ (word >> 27)) &* 0x94d0_49bb_1331_11eb
        return word ^ (word >> 31)
    }
}
