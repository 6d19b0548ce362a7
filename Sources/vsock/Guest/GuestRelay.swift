// SPDX-License-Identifier: Apache-2.0
// Copies between a running guest's channels and the caller's streams, and follows what the guest says on its control
// channel. One thread, one poll(2); standard input waits for the guest, and the guest for standard output.
// Nothing goes into the guest before it says "ready": until then its terminal lines are not set up.
//
// User Mode Linux's terminal lines lose two things, and the guest would wait for ever. A line whose buffer fills is
// throttled, and never watched again once it has been read empty: so one chunk, which fits, is on its way at a time, and
// the guest says "taken". And the host need not send SIGIO for room in a socket that has just been found full: so a guest
// that is silent is nudged, as any SIGIO makes it look at all its lines.

import VsockSystem

/// The caller's ends of a guest's streams. They stay the caller's to close.
package struct GuestStreams: Sendable {
    /// Read for the command's standard input; nil for none.
    package var input: Int32?
    /// Take the command's output.
    package var output: Int32
    package var errors: Int32
    /// Ends the guest when it becomes readable or hangs up; nil for never.
    package var cancel: Int32?
    /// Takes the guest's console as it comes, besides keeping its end; nil for no one.
    package var console: Int32?

    /// By default the streams of this process.
    package init(
        input: Int32? = 0, output: Int32 = 1, errors: Int32 = 2, cancel: Int32? = nil, console: Int32? = nil
    ) {
        self.input = input
        self.output = output
        self.errors = errors
        self.cancel = cancel
        self.console = console
    }
}

/// The copying, from the start of a guest to its end.
struct GuestRelay {
    /// Why the copying stopped.
    enum End: Equatable {
        /// The command ended with this status.
        case exit(Int32)
        /// The guest gave a reason why it cannot run the command.
        case refused(String)
        /// The guest is gone without a word.
        case gone
        /// The caller wants no more of it.
        case cancelled
        /// It did not become ready in time.
        case late
        /// The command took longer than it may.
        case timedOut
        /// Nobody reads the command's output any more.
        case outputClosed
    }

    let streams: GuestStreams
    private(set) var channels: [GuestBoot.Channel: SharedFileDescriptor]
    let log: Int32
    /// Whether the channels are terminal lines of User Mode Linux.
    let usesTerminalLines: Bool
    /// The process that runs the guest. Its end shows here and not always on the channels: when User Mode Linux crashes,
    /// its helpers live on with copies of the descriptors.
    let process: ChildProcess

    private(set) var isReady = false
    private var openOutputs: [Int32: Int32]
    private var isLogOpen = true
    private var isInputOpen: Bool
    /// Whether the guest has still to say that it has taken the last chunk.
    private var isChunkUnderWay = false
    private var pending: ArraySlice<UInt8> = []
    private var controlText: [UInt8] = []
    private var console: [UInt8] = []
    private var end: End?
    private var deadline = UInt64.max

    private static let chunkSize = 1 << 16
    /// A control line is a word and a short reason; what is longer is not ours.
    private static let controlTextMax = 4096
    private static let consoleKeptMax = 1 << 14
    private static let silenceNanoseconds: UInt64 = 250_000_000
    private static let nudge: [UInt8] = [UInt8(ascii: "\n")]

    init(
        streams: GuestStreams, channels: [GuestBoot.Channel: SharedFileDescriptor], log: Int32, usesTerminalLines: Bool,
        process: ChildProcess
    ) {
        self.streams = streams
        self.channels = channels
        self.log = log
        self.usesTerminalLines = usesTerminalLines
        self.process = process
        openOutputs = [:]
        if let output = channels[.output] { openOutputs[output.rawValue] = streams.output }
        if let errors = channels[.errors] { openOutputs[errors.rawValue] = streams.errors }
        isInputOpen = true
    }

    /// The end of what the guest's console showed.
    var consoleTail: String {
        let lines = String(decoding: console, as: UTF8.self).split(whereSeparator: \.isNewline)
        return lines.suffix(20).joined(separator: "\n")
    }

    /// Copies until the command ends or something else does.
    ///
    /// - Parameters:
    ///   - bootDeadline: when the guest must be ready, on the monotonic clock.
    ///   - deadline: when the command must have ended, on the same clock.
    ///   - onReady: called once the command runs.
    mutating func run(bootDeadline: UInt64, deadline: UInt64, onReady: () -> Void) -> End {
        self.deadline = deadline
        while end == nil {
            var wanted = interests()
            let now = MonotonicClock.now()
            let limit = isReady ? deadline : min(bootDeadline, deadline)
            let timeout = limit > now ? limit - now : 0
            let count = try? DescriptorIO.waitUntilReady(
                &wanted, timeoutNanoseconds: min(timeout, Self.silenceNanoseconds))
            guard let count else { return .gone }
            if count == 0 { handleSilence() }
            let wasReady = isReady
            for interest in wanted where !interest.ready.isEmpty { handle(interest.descriptor) }
            if isReady, !wasReady { onReady() }
            if timeout == 0 { end = end ?? (isReady ? .timedOut : .late) }
        }
        drain()
        return end ?? .gone
    }

    /// Closes our ends of the channels, which ends the guest if it still runs.
    mutating func closeChannels() {
        channels = [:]
        openOutputs = [:]
    }

    private func interests() -> [PollRequest] {
        var wanted: [PollRequest] = []
        func add(_ descriptor: Int32?, _ events: PollEvents = .readable) {
            guard let descriptor else { return }
            wanted.append(PollRequest(descriptor, events))
        }
        add(streams.cancel)
        add(channels[.control]?.rawValue)
        for descriptor in openOutputs.keys { add(descriptor) }
        if isLogOpen { add(log) }
        if isReady, isInputOpen {
            if !pending.isEmpty {
                add(channels[.input]?.rawValue, .writable)
            } else if !isChunkUnderWay {
                add(streams.input)
            }
        }
        return wanted
    }

    private mutating func handle(_ descriptor: Int32) {
        if descriptor == streams.cancel {
            end = .cancelled
        } else if descriptor == channels[.control]?.rawValue {
            readControl()
        } else if openOutputs[descriptor] != nil {
            copyOutput(descriptor)
        } else if descriptor == log {
            copyLog()
        } else if descriptor == channels[.input]?.rawValue {
            writePending()
        } else if descriptor == streams.input {
            readInput()
        }
    }

    private mutating func handleSilence() {
        if (try? process.hasEnded()) != false {
            end = .gone
        } else if usesTerminalLines, isReady, let control = channels[.control] {
            _ = Self.nudge.withUnsafeBytes { DescriptorIO.send(control.rawValue, from: $0) }
        }
    }

    private mutating func readControl() {
        guard let control = channels[.control] else { return }
        switch Chunk(reading: control.rawValue, limit: Self.controlTextMax) {
        case .wouldBlock: return
        case .end: end = end ?? .gone
        case .bytes(let bytes):
            controlText += bytes
            while let newline = controlText.firstIndex(of: UInt8(ascii: "\n")) {
                let line = String(decoding: controlText[..<newline], as: UTF8.self)
                controlText.removeSubrange(...newline)
                obey(line)
            }
            if controlText.count > Self.controlTextMax { controlText = [] }
        }
    }

    private mutating func obey(_ line: String) {
        let words = line.split(separator: " ", maxSplits: 1)
        switch words.first {
        case "ready":
            isReady = true
            if streams.input == nil { endInput() }
        case "taken": isChunkUnderWay = false
        case "closed": (pending, isInputOpen) = ([], false)
        case "exit": end = .exit(words.last.flatMap { Int32($0) } ?? 1)
        case "error": end = .refused(words.dropFirst().first.map(String.init) ?? "no reason given")
        default: break
        }
    }

    private mutating func copyOutput(_ descriptor: Int32) {
        guard let destination = openOutputs[descriptor] else { return }
        switch Chunk(reading: descriptor, limit: Self.chunkSize) {
        case .wouldBlock: return
        case .end: openOutputs[descriptor] = nil
        case .bytes(let bytes): deliver(bytes[...], to: destination)
        }
    }

    /// Writes everything, waiting for the reader, but not past a cancellation. No write may block, as a signal does not
    /// interrupt it, and the mode of the destination is not ours to change: what is writable takes a piece at once.
    private mutating func deliver(_ bytes: ArraySlice<UInt8>, to destination: Int32) {
        var rest = bytes
        while !rest.isEmpty {
            var wanted = [PollRequest(destination, .writable)]
            if let cancel = streams.cancel { wanted.append(PollRequest(cancel, .readable)) }
            let now = MonotonicClock.now()
            let left = deadline > now ? deadline - now : 0
            if (try? DescriptorIO.waitUntilReady(&wanted, timeoutNanoseconds: left)) == 0, left == 0 {
                end = .timedOut
                return
            }
            if wanted[0].ready.isEmpty, wanted.count == 2, !wanted[1].ready.isEmpty {
                end = .cancelled
                return
            }
            let piece = rest.prefix(DescriptorIO.pipeAtomicByteCount)
            switch piece.withUnsafeBytes({ DescriptorIO.write(destination, from: $0) }) {
            case .count(let count): rest = rest.dropFirst(count)
            case .wouldBlock: continue
            case .failed:
                end = end ?? .outputClosed
                return
            }
        }
    }

    private mutating func copyLog() {
        switch Chunk(reading: log, limit: Self.chunkSize) {
        case .wouldBlock: return
        case .end: isLogOpen = false
        case .bytes(let bytes):
            console += bytes
            if console.count > Self.consoleKeptMax { console.removeFirst(console.count - Self.consoleKeptMax) }
            if let destination = streams.console { deliver(bytes[...], to: destination) }
        }
    }

    private mutating func readInput() {
        guard let input = streams.input else { return }
        let limit = usesTerminalLines ? TerminalInputEncoder.chunkSizeMax : Self.chunkSize
        switch Chunk(reading: input, limit: limit) {
        case .wouldBlock: return
        case .end: endInput()
        case .bytes(let bytes):
            pending = usesTerminalLines ? TerminalInputEncoder.encode(bytes[...])[...] : bytes[...]
            isChunkUnderWay = usesTerminalLines
        }
        writePending()
    }

    private mutating func writePending() {
        guard let channel = channels[.input], !pending.isEmpty else { return }
        switch pending.withUnsafeBytes({ DescriptorIO.send(channel.rawValue, from: $0) }) {
        case .count(let count): pending = pending.dropFirst(count)
        case .wouldBlock: return
        case .failed: (pending, isInputOpen) = ([], false)
        }
    }

    private mutating func endInput() {
        guard isInputOpen, let channel = channels[.input] else { return }
        isInputOpen = false
        // Nothing is under way here, and one byte more always fits an empty line.
        if usesTerminalLines {
            _ = TerminalInputEncoder.endOfFile.withUnsafeBytes { DescriptorIO.send(channel.rawValue, from: $0) }
        } else {
            try? SocketOptions.shutdown(channel.rawValue, .send)
        }
    }

    /// Takes what is still on its way: the guest delivers all output before it says how the command ended.
    private mutating func drain() {
        for descriptor in openOutputs.keys {
            while let destination = openOutputs[descriptor], ![.outputClosed, .cancelled, .timedOut].contains(end),
                case .bytes(let bytes) = Chunk(reading: descriptor, limit: Self.chunkSize)
            {
                deliver(bytes[...], to: destination)
            }
        }
        while isLogOpen, case .bytes(let bytes) = Chunk(reading: log, limit: Self.chunkSize) { console += bytes }
    }
}
