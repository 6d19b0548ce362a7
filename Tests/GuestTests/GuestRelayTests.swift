// SPDX-License-Identifier: Apache-2.0
// The copying between a guest's channels and the caller's streams, with a test in the guest's place.

import Synchronization
import Testing
import VsockSystem

@testable import vsock

@Suite("Guest relay")
struct GuestRelayTests {
    @Test("a cancellation does not wait for a reader that takes no output")
    func cancelWhileOutputWaits() throws {
        let output = try DescriptorIO.makePipe(nonBlocking: false)
        let outputRead = output.readEnd
        let outputWrite = SharedFileDescriptor(output.writeEnd)
        let guest = try ScriptedGuestEnd()
        // More than the pipe takes.
        try guest.say("ready")
        try guest.send([UInt8](repeating: 0x78, count: 100_000), on: .output)
        let run = try guest.relay(input: nil, output: outputWrite, usesTerminalLines: false)
        let last = MonotonicClock.now() + ScriptedGuestEnd.deadline
        while try !DescriptorIO.waitUntilReady(outputWrite.rawValue, for: .writable, timeoutNanoseconds: 0).isEmpty {
            try #require(MonotonicClock.now() < last, "the pipe does not fill")
            var nothing: [PollRequest] = []
            try DescriptorIO.waitUntilReady(&nothing, timeoutNanoseconds: 1_000_000)
        }
        #expect(run.end == nil)
        run.cancel.signal()
        try run.waitForEnd()
        #expect(run.end == .cancelled)
        withExtendedLifetime(outputRead.rawValue) {}
    }

    @Test(
        "a terminal line gets one chunk of the input, and the next when it has taken that one; then the end of the file"
    )
    func chunks() throws {
        let (first, second) = ([UInt8](repeating: 0x61, count: TerminalInputEncoder.chunkSizeMax), [UInt8(0x62)])
        let input = try pipe(holding: first + second)
        let guest = try ScriptedGuestEnd()
        try guest.say("ready")
        let run = try guest.relay(input: input, output: nil, usesTerminalLines: true)
        let encoded = TerminalInputEncoder.encode(first[...])
        #expect(try guest.receive(encoded.count, on: .input) == encoded)
        // A silence shows that nothing more was to be done.
        #expect(try guest.receive(1, on: .control) == [0x0A])
        #expect(try guest.receive(1, on: .input, isPatient: false) == [])
        try guest.say("taken")
        let last = TerminalInputEncoder.encode(second[...])
        #expect(try guest.receive(last.count, on: .input) == last)
        try guest.say("taken")
        #expect(try guest.receive(1, on: .input) == TerminalInputEncoder.endOfFile)
        try guest.say("exit 3")
        try run.waitForEnd()
        #expect(run.end == .exit(3))
    }

    @Test("input that the command no longer takes is left where it is")
    func closedInput() throws {
        let content = [UInt8](repeating: 0x61, count: TerminalInputEncoder.chunkSizeMax + 5)
        let input = try pipe(holding: content)
        let guest = try ScriptedGuestEnd()
        try guest.say("ready")
        let run = try guest.relay(input: input, output: nil, usesTerminalLines: true)
        #expect(try !guest.receive(1, on: .input).isEmpty)
        try guest.say("closed")
        try guest.say("taken")
        try guest.say("exit 0")
        try run.waitForEnd()
        #expect(run.end == .exit(0))
        guard case .bytes(let left) = Chunk(reading: input.rawValue, limit: content.count) else {
            Issue.record("the input is gone")
            return
        }
        #expect(left.count == 5)
    }

    private func pipe(holding bytes: [UInt8]) throws -> SharedFileDescriptor {
        let pipe = try DescriptorIO.makePipe(nonBlocking: false)
        try #require(
            bytes.withUnsafeBytes { DescriptorIO.write(pipe.writeEnd.rawValue, from: $0) } == .count(bytes.count))
        return SharedFileDescriptor(pipe.readEnd)
    }
}

/// The guest's ends of its channels.
private final class ScriptedGuestEnd {
    static let deadline: UInt64 = 120_000_000_000

    private var ours: [GuestBoot.Channel: SharedFileDescriptor] = [:]
    private var theirs: [GuestBoot.Channel: SharedFileDescriptor] = [:]
    /// In the place of the process that runs the guest.
    private let process: ChildProcess

    init() throws {
        process = try HostProgram.start(["/bin/sh", "-c", "exec sleep 1000"], output: nil, errors: nil)
        for channel in GuestBoot.Channel.allCases {
            let pair = try UnixSocket.makePair(.stream, nonBlocking: true)
            ours[channel] = SharedFileDescriptor(pair.first)
            theirs[channel] = SharedFileDescriptor(pair.second)
        }
    }

    deinit { process.end() }

    func say(_ line: String) throws { try send(Array("\(line)\n".utf8), on: .control) }

    func send(_ bytes: [UInt8], on channel: GuestBoot.Channel) throws {
        let descriptor = try #require(theirs[channel])
        try #require(bytes.withUnsafeBytes { DescriptorIO.send(descriptor.rawValue, from: $0) } == .count(bytes.count))
    }

    /// So many bytes, or what there is before the stream ends; when not patient, what is there at once.
    func receive(_ count: Int, on channel: GuestBoot.Channel, isPatient: Bool = true) throws -> [UInt8] {
        let descriptor = try #require(theirs[channel])
        var received: [UInt8] = []
        while received.count < count {
            switch Chunk(reading: descriptor.rawValue, limit: count - received.count) {
            case .bytes(let bytes): received += bytes
            case .end: return received
            case .wouldBlock:
                guard isPatient else { return received }
                let ready = try DescriptorIO.waitUntilReady(
                    descriptor.rawValue, for: .readable, timeoutNanoseconds: Self.deadline)
                try #require(!ready.isEmpty, "nothing comes on \(channel)")
            }
        }
        return received
    }

    /// Starts a relay on a thread of its own.
    func relay(
        input: SharedFileDescriptor?, output: SharedFileDescriptor?, usesTerminalLines: Bool
    ) throws -> RunningRelay {
        let run = RunningRelay(cancel: try EventNotifier(), finished: try EventNotifier())
        let (channels, process) = (ours, process)
        let log = try UnixSocket.makePair(.stream, nonBlocking: true)
        let logReader = SharedFileDescriptor(log.first)
        let logWriter = SharedFileDescriptor(log.second)
        let outputDescriptor = output?.rawValue ?? 2
        _ = try WorkerThread(name: "relay") {
            let streams = GuestStreams(
                input: input?.rawValue, output: outputDescriptor, errors: outputDescriptor,
                cancel: run.cancel.rawDescriptor)
            var relay = GuestRelay(
                streams: streams, channels: channels, log: logReader.rawValue, usesTerminalLines: usesTerminalLines,
                process: process)
            run.end = relay.run(bootDeadline: MonotonicClock.now() + Self.deadline, deadline: .max) {}
            withExtendedLifetime((input, output, logReader, logWriter)) {}
            run.finished.signal()
        }
        return run
    }
}

/// A relay on its thread.
private final class RunningRelay: Sendable {
    let cancel: EventNotifier
    let finished: EventNotifier
    private let state = Mutex<GuestRelay.End?>(nil)

    init(cancel: EventNotifier, finished: EventNotifier) {
        self.cancel = cancel
        self.finished = finished
    }

    var end: GuestRelay.End? {
        get { state.withLock { $0 } }
        set { state.withLock { $0 = newValue } }
    }

    func waitForEnd() throws {
        let ready = try DescriptorIO.waitUntilReady(
            finished.rawDescriptor, for: .readable, timeoutNanoseconds: ScriptedGuestEnd.deadline)
        try #require(!ready.isEmpty, "the relay does not end")
    }
}
