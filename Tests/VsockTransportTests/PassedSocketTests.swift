// SPDX-License-Identifier: Apache-2.0
//
// A monitor that passes its own end of the session's socket as a descriptor, straight or in disguise: the session ends
// with it all the same.

import Testing
import VhostUser
import VsockSystem

@testable import VsockTransport

@Suite("Sockets passed to a session")
struct PassedSocketTests {
    /// Where the monitor puts its own end.
    enum Place: CaseIterable {
        case kick, call, error, backendChannel, memory
        /// In the queue of a socket that is passed as the back-end's channel.
        case insideOfChannel
        /// In the queue of a listener, which is passed.
        case insideOfListener
        /// In the first bytes of a message that never becomes whole.
        case halfMessage
        /// In a message that no session takes.
        case unknownMessage
    }

    @Test("a monitor that passes its own end, and leaves, makes room for the next", arguments: Place.allCases)
    func ownEnd(place: Place) throws {
        let device = try TestDevice()
        try leaveBehind(place, at: device)
        _ = try ConnectedPair(device, try device.nextGuest(), .stream, from: .guest)
    }

    @Test("a back-end's channel that is a socket stays open, and its other end is told nothing")
    func channel() throws {
        let device = try TestDevice()
        let front = try VhostUserFrontend(path: device.socketPath)
        let pair = try UnixSocket.makePair(.stream, nonBlocking: true)
        let ours = pair.first
        do {
            let theirs = pair.second
            try front.perform(.setOwner, [])
            try front.perform(.setProtocolFeatures([.replyAck, .backendRequests]), [])
            try front.perform(.setBackendChannel, [theirs.rawValue])
        }
        let events = try DescriptorIO.waitUntilReady(
            ours.rawValue, for: [.readable, .readHangUp], timeoutNanoseconds: 0)
        #expect(events.isEmpty)
        #expect(try device.inspect { $0.frontend != nil })
    }

    /// Connects, passes the connection, and closes it.
    private func leaveBehind(_ place: Place, at device: TestDevice) throws {
        let own = try UnixSocket.connect(to: UnixAddress(device.socketPath), type: .stream, nonBlocking: true)
        let pair = try UnixSocket.makePair(.stream, nonBlocking: true)
        let listener = try UnixListener(UnixAddress(device.directory.file("l")), type: .stream)
        func pass(_ request: FrontendRequest, _ descriptor: Int32, prefix: Int = .max) {
            var session = FrontendSession()
            let bytes = session.send(request).bytes.prefix(prefix)
            let sent = bytes.withUnsafeBytes {
                DescriptorIO.sendMessage(own.rawValue, from: $0, descriptors: [descriptor])
            }
            #expect(sent == .count(bytes.count))
        }
        func hide(in socket: Int32) {
            let sent = [0 as UInt8].withUnsafeBytes {
                DescriptorIO.sendMessage(socket, from: $0, descriptors: [own.rawValue])
            }
            #expect(sent == .count(1))
        }
        switch place {
        case .kick: pass(.setKick(queue: 0, hasDescriptor: true), own.rawValue)
        case .call: pass(.setCall(queue: 0, hasDescriptor: true), own.rawValue)
        case .error: pass(.setError(queue: 0, hasDescriptor: true), own.rawValue)
        case .backendChannel: pass(.setBackendChannel, own.rawValue)
        case .memory:
            pass(
                .addMemoryRegion(
                    MemoryRegion(guestAddress: 0, byteCount: 4096, userAddress: 0, mmapOffset: 0)), own.rawValue)
        case .insideOfChannel:
            hide(in: pair.first.rawValue)
            pass(.setBackendChannel, pair.second.rawValue)
        case .insideOfListener:
            let client = try UnixSocket.connect(
                to: UnixAddress(device.directory.file("l")), type: .stream, nonBlocking: true)
            hide(in: client.rawValue)
            pass(.setBackendChannel, listener.rawDescriptor)
        case .halfMessage: pass(.setKick(queue: 0, hasDescriptor: true), own.rawValue, prefix: 5)
        case .unknownMessage: pass(.getFeatures, own.rawValue)
        }
    }
}
