// SPDX-License-Identifier: Apache-2.0
//
// The 12 bytes in front of every vhost-user message, of either direction and on either channel:
// vhost-user.rst "Message Specification / Header".
//
//   0  request  u32   what is asked; a reply repeats it
//   4  flags    u32   bits 0-1 version, bit 2 reply, bit 3 need_reply
//   8  size     u32   bytes of payload that follow
//
// The specification says machine byte order; every machine that runs this stack is little-endian, and so is the code.

/// The header of a vhost-user message.
public struct MessageHeader: Equatable, Sendable {
    /// Bytes of a header on the wire.
    public static let byteCount = 12

    /// The largest payload accepted, in bytes. The largest the protocol defines is the shared memory configuration
    /// (8 + 256 × 8 bytes); more than one page is a broken or hostile peer, and would only make us hold its bytes.
    public static let payloadLimit = 4096

    /// The most descriptors that one message carries: one for each region of a full memory table.
    public static let descriptorLimit = 8

    /// The only protocol version that exists.
    public static let version: UInt32 = 1

    static let versionMask: UInt32 = 0b11
    static let replyFlag: UInt32 = 1 << 2
    static let needReplyFlag: UInt32 = 1 << 3

    /// The request's code: a `FrontendMessageType` or, on the back-end's channel, a `BackendMessageType`.
    public var request: UInt32

    /// The flags word as it stands on the wire. Bits that the protocol does not define are ignored.
    public var flags: UInt32

    /// Bytes of payload behind the header.
    public var payloadByteCount: Int

    /// A header of the current version.
    public init(request: UInt32, isReply: Bool = false, needsReply: Bool = false, payloadByteCount: Int) {
        self.request = request
        self.flags = Self.version | (isReply ? Self.replyFlag : 0) | (needsReply ? Self.needReplyFlag : 0)
        self.payloadByteCount = payloadByteCount
    }

    /// Reads the first 12 bytes of `bytes`.
    ///
    /// - Throws: `.shortHeader`, `.wrongVersion` or `.payloadTooLarge`.
    public init(parsing bytes: RawSpan) throws(VhostUserError) {
        guard bytes.byteCount >= Self.byteCount else { throw .shortHeader(byteCount: bytes.byteCount) }
        request = bytes.littleEndian(at: 0)
        flags = bytes.littleEndian(at: 4)
        let size: UInt32 = bytes.littleEndian(at: 8)
        guard size <= UInt32(Self.payloadLimit) else { throw .payloadTooLarge(byteCount: size) }
        payloadByteCount = Int(size)
        try checkVersion()
    }

    /// Appends the 12 bytes to `bytes`.
    public func emit(to bytes: inout [UInt8]) {
        bytes.appendLittleEndian(request)
        bytes.appendLittleEndian(flags)
        bytes.appendLittleEndian(UInt32(truncatingIfNeeded: payloadByteCount))
    }

    /// Whether this message answers a request.
    public var isReply: Bool { flags & Self.replyFlag != 0 }

    /// Whether the sender asks for an acknowledgement. It counts only once REPLY_ACK is negotiated.
    public var needsReply: Bool { flags & Self.needReplyFlag != 0 }

    func checkVersion() throws(VhostUserError) {
        let version = flags & Self.versionMask
        guard version == Self.version else { throw .wrongVersion(version) }
    }
}
