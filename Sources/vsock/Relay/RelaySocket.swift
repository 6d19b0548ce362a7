// SPDX-License-Identifier: Apache-2.0
//
// A connected socket and what differs between its families.
//
// The end of a SOCK_SEQPACKET Unix socket looks like an empty record: both are 0 bytes. With SO_PASSCRED the kernel has
// credentials to report with every record, empty ones too, but not with the end; there is no room for them here, which
// it says with MSG_CTRUNC. That tells the two apart exactly, where a hang-up alone does not: it shows as soon as the
// peer has shut its direction, with records still unread.

import VsockSystem

/// See the top of the file. The socket is blocking.
final class RelaySocket: Sendable {
    /// What carries the socket.
    enum Family: Sendable {
        case unix
        case kernel
    }

    // SOL_SOCKET and SO_PASSCRED of Linux, on every architecture that Swift has there.
    private static let socketLevel: Int32 = 1
    private static let passCredentials: Int32 = 16

    let type: UnixSocketType
    let family: Family
    /// What a user knows the peer by.
    let peer: String
    private let descriptor: OwnedFileDescriptor

    /// Takes the connection over.
    init(
        _ descriptor: consuming OwnedFileDescriptor, _ family: Family, type: UnixSocketType, peer: String
    ) throws(SystemCallError) {
        try DescriptorIO.setNonBlocking(descriptor.rawValue, false)
        if family == .unix, type == .seqpacket {
            // Best effort: without the mark a hang-up decides.
            try? SocketOptions.set(
                descriptor.rawValue, level: Self.socketLevel, name: Self.passCredentials, to: Int32(1))
        }
        self.type = type
        self.family = family
        self.peer = peer
        self.descriptor = descriptor
    }

    var rawDescriptor: Int32 { descriptor.rawValue }

    /// Ends a direction. The peer may be gone already, which is no error here.
    func shutdown(_ direction: SocketOptions.Direction) {
        try? SocketOptions.shutdown(descriptor.rawValue, direction)
    }

    /// Whether a receive of 0 bytes was the end, given its flags.
    func isEnd(_ flags: MessageFlags) -> Bool {
        guard type == .seqpacket else { return true }
        if family == .unix, flags.contains(.controlTruncated) { return false }
        let events = try? DescriptorIO.waitUntilReady(descriptor.rawValue, for: .readHangUp, timeoutNanoseconds: 0)
        return events?.isDisjoint(with: [.readHangUp, .hangUp, .error]) != true
    }

    /// Whether the peer, which sends no more, takes no more either.
    func isPeerGone(_ events: PollEvents) -> Bool {
        if !events.isDisjoint(with: [.hangUp, .error]) { return true }
        guard family == .kernel else { return false }
        // AF_VSOCK reports a peer that has closed like one that has shut its sending direction. A send of nothing
        // puts nothing on the wire and fails if the peer does not receive.
        if case .failed = DescriptorIO.send(descriptor.rawValue, from: UnsafeRawBufferPointer(start: nil, count: 0)) {
            return true
        }
        return false
    }
}
