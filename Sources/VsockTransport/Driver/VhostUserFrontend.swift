// SPDX-License-Identifier: Apache-2.0
//
// The front-end's end of a vhost-user socket: the requests of VhostUser's start-up script, with the descriptors that
// belong to them. Blocking, with a deadline: a driver starts before it does anything else.

import VhostUser
import VsockSystem

/// One vhost-user connection to a back-end.
final class VhostUserFrontend {
    /// A back-end that takes longer than this to answer a request does not work.
    private static let replyTimeoutNanoseconds: UInt64 = 5_000_000_000

    private let descriptor: OwnedFileDescriptor
    private(set) var session = FrontendSession()
    private(set) var configuration: [UInt8] = []
    /// The record of what the back-end has in flight, to be kept beyond its end.
    private(set) var inflight: InflightFile?
    private var reader = MessageReader()
    private var received = DescriptorList()

    /// Connects to the back-end that listens on `path`; `inflight` is what one before it has left.
    init(path: String, inflight: InflightFile? = nil) throws(VsockDriverError) {
        self.inflight = inflight
        do throws(SystemCallError) {
            descriptor = try UnixSocket.connect(to: UnixAddress(path), type: .stream, nonBlocking: false)
        } catch {
            throw .system(error)
        }
    }

    /// The socket, readable only when the back-end has left.
    var rawDescriptor: Int32 { descriptor.rawValue }

    /// Brings the device up; `descriptors` gives those that belong to a request, in order.
    func start(
        _ script: FrontendStartup, descriptors: (FrontendRequest) -> [Int32]
    ) throws(VsockDriverError) {
        var script = script
        while true {
            let next: FrontendRequest?
            do throws(VhostUserError) {
                next = try script.next(after: session)
            } catch {
                throw .session("\(error)")
            }
            guard let request = next else { return }
            try perform(request, descriptors(request))
        }
    }

    /// Sends a request and waits for its reply, if it has one.
    @discardableResult
    func perform(_ request: FrontendRequest, _ descriptors: [Int32]) throws(VsockDriverError) -> FrontendReply? {
        var descriptors = descriptors
        if case .setInflight = request, let inflight { descriptors = [inflight.descriptor.rawValue] }
        let outgoing = session.send(request)
        let sent = outgoing.bytes.withUnsafeBytes {
            DescriptorIO.sendMessage(descriptor.rawValue, from: $0, descriptors: descriptors)
        }
        guard case .count(outgoing.bytes.count) = sent else { throw .session("the back-end takes no requests") }
        guard session.awaitsReply else { return nil }
        let message = try receive()
        do throws(VhostUserError) {
            let reply = try session.receive(message, descriptorCount: received.count)
            if case .inflight(let area?) = reply, let descriptor = received.take(at: 0) {
                inflight = InflightFile(area: area, descriptor: SharedFileDescriptor(descriptor))
            }
            if case .configuration(let bytes) = reply { configuration = bytes }
            return reply
        } catch {
            throw .session("\(error)")
        }
    }

    private func receive() throws(VsockDriverError) -> Message {
        while true {
            do throws(SystemCallError) {
                let events = try DescriptorIO.waitUntilReady(
                    descriptor.rawValue, for: .readable, timeoutNanoseconds: Self.replyTimeoutNanoseconds)
                guard !events.isEmpty else { throw SystemCallError(call: "poll", errno: .timedOut) }
            } catch {
                throw .system(error)
            }
            var hasEnded = false
            let isFirst = !reader.isInsideMessage
            do throws(VhostUserError) {
                let message = try reader.fill { buffer in
                    var descriptors = DescriptorList()
                    let result = DescriptorIO.receiveMessage(
                        descriptor.rawValue, into: buffer, descriptors: &descriptors)
                    if isFirst { received = descriptors }
                    if case .message(let count, _) = result, count > 0 { return count }
                    hasEnded = true
                    return 0
                }
                if let message { return message }
            } catch {
                throw .session("\(error)")
            }
            guard !hasEnded else { throw .session("the back-end closed the connection") }
        }
    }
}

/// The file that holds the record of what a back-end has in flight, and where in it.
struct InflightFile: Sendable {
    let area: InflightArea
    let descriptor: SharedFileDescriptor
}
