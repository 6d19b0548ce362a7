// SPDX-License-Identifier: Apache-2.0
// The copying between a guest's channels and the caller's streams, with a test in the guest's place.

import Synchronization
import Testing
import VsockSystem

@testable import vsock

@Suite("Guest relay")
struct GuestRelayTests {
    private static let deadline: UInt64 = 120_000_000_000

    private final class Outcome: Sendable {
        let end = Mutex<GuestRelay.End?>(nil)
    }

    @Test("a cancellation does not wait for a reader that takes no output")
    func cancelWhileOutputWaits() throws {
        let output = try DescriptorIO.makePipe(nonBlocking: false)
        let outputRead = output.readEnd
        let outputWrite = SharedFileDescriptor(output.writeEnd)
        let log = try UnixSocket.makePair(.stream, nonBlocking: true)
        let logReader = SharedFileDescriptor(log.first)
        let cancel = try EventNotifier()
        let finished = try EventNotifier()
        let outcome = Outcome()
        var ours: [GuestBoot.Channel: SharedFileDescriptor] = [:]
        var theirs: [GuestBoot.Channel: SharedFileDescriptor] = [:]
        for channel in GuestBoot.Channel.allCases {
            let pair = try UnixSocket.makePair(.stream, nonBlocking: true)
            ours[channel] = SharedFileDescriptor(pair.first)
            theirs[channel] = SharedFileDescriptor(pair.second)
        }
        // More than the pipe takes.
        try send(Array("ready\n".utf8), to: #require(theirs[.control]))
        try send([UInt8](repeating: 0x78, count: 100_000), to: #require(theirs[.output]))
        let process = try HostProgram.start(["/bin/sh", "-c", "exec sleep 1000"], output: nil, errors: nil)
        defer { process.end() }
        let channels = ours
        _ = try WorkerThread(name: "relay") {
            let streams = GuestStreams(
                input: nil, output: outputWrite.rawValue, errors: outputWrite.rawValue, cancel: cancel.rawDescriptor)
            var relay = GuestRelay(
                streams: streams, channels: channels, log: logReader.rawValue, encodesInput: false, process: process)
            let end = relay.run(bootDeadline: MonotonicClock.now() + Self.deadline, deadline: .max) {}
            outcome.end.withLock { $0 = end }
            withExtendedLifetime((outputWrite, logReader, cancel)) {}
            finished.signal()
        }
        let last = MonotonicClock.now() + Self.deadline
        while try !DescriptorIO.waitUntilReady(outputWrite.rawValue, for: .writable, timeoutNanoseconds: 0).isEmpty {
            try #require(MonotonicClock.now() < last, "the pipe does not fill")
            var nothing: [PollRequest] = []
            try DescriptorIO.waitUntilReady(&nothing, timeoutNanoseconds: 1_000_000)
        }
        #expect(outcome.end.withLock { $0 } == nil)
        cancel.signal()
        _ = try DescriptorIO.waitUntilReady(
            finished.rawDescriptor, for: .readable, timeoutNanoseconds: Self.deadline)
        #expect(outcome.end.withLock { $0 } == .cancelled)
        withExtendedLifetime((theirs, log.second.rawValue, outputRead.rawValue)) {}
    }

    private func send(_ bytes: [UInt8], to descriptor: SharedFileDescriptor) throws {
        let result = bytes.withUnsafeBytes { DescriptorIO.send(descriptor.rawValue, from: $0) }
        try #require(result == .count(bytes.count))
    }
}
