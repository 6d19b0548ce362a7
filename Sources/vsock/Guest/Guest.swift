// SPDX-License-Identifier: Apache-2.0
// Boots a guest, runs a command in it and takes everything down again, whatever happens in between.
// Order: descriptors, files, virtiofsd, the guest; backwards on the way out. The channels are closed before anything is
// waited for: a guest whose control channel closes ends by itself.

import VsockSystem

/// A guest from its boot to its end.
package enum Guest {
    /// The status of a command that the caller gave up, as shells count: 128 and SIGTERM's number.
    package static let cancelledStatus: Int32 = 128 + Signal.terminate
    /// The status of a command that took longer than it may, that of timeout(1).
    package static let timedOutStatus: Int32 = 124
    private static let deviceNanosecondsMax: UInt64 = 5_000_000_000
    private static let deviceCheckNanoseconds: UInt64 = 20_000_000
    private static let shutdownNanosecondsMax: UInt64 = 3_000_000_000

    /// Boots a guest, runs its command and waits for it to end. Blocks the calling thread.
    ///
    /// - Parameters:
    ///   - configuration: the guest.
    ///   - streams: where the command's input comes from and its output goes.
    ///   - onReady: called once the command runs, on the calling thread.
    /// - Returns: the command's exit status; 128 and the signal's number when a signal ended it.
    package static func run(
        _ configuration: GuestConfiguration, streams: GuestStreams = GuestStreams(), onReady: () -> Void = {}
    ) throws(GuestError) -> Int32 {
        let directory = try GuestError.naming { () throws(SystemCallError) in
            try TemporaryDirectory(prefix: "vsock-guest")
        }
        let boot = try GuestBoot.command(configuration, directory: directory)
        if let socket = configuration.deviceSocket { try awaitDevice(socket, cancel: streams.cancel) }

        let log = try GuestError.naming { () throws(SystemCallError) in
            let pair = try UnixSocket.makePair(.stream, nonBlocking: false)
            try DescriptorIO.setNonBlocking(pair.first.rawValue)
            return pair
        }
        let logReader = log.first
        let logWriter = log.second
        let daemon = try boot.virtiofsSocket.map { (socket) throws(GuestError) in
            try VirtiofsDaemon.start(socket: socket, log: logWriter.rawValue)
        }
        defer { daemon?.end() }
        var relay = try start(boot, configuration, streams, logReader: logReader.rawValue, log: logWriter.rawValue)
        _ = consume logWriter
        let start = MonotonicClock.now()
        let end = relay.run(
            bootDeadline: deadline(configuration.bootSecondsMax, after: start),
            deadline: configuration.secondsMax.map { deadline($0, after: start) } ?? .max
        ) {
            directory.remove()
            onReady()
        }
        relay.closeChannels()
        // Lets the guest power off, so that its devices see an orderly end.
        _ = try? relay.process.hasEnded(withinNanoseconds: shutdownNanosecondsMax)
        relay.process.end()
        return try status(end, relay, configuration)
    }

    /// Starts the process that runs the guest. Its ends of the channels are closed here.
    private static func start(
        _ boot: GuestBoot, _ configuration: GuestConfiguration, _ streams: GuestStreams, logReader: Int32, log: Int32
    ) throws(GuestError) -> GuestRelay {
        var ours: [GuestBoot.Channel: SharedFileDescriptor] = [:]
        var theirs: [SharedFileDescriptor] = []
        for channel in GuestBoot.Channel.allCases {
            let pair = try GuestError.naming { () throws(SystemCallError) in
                let pair = try UnixSocket.makePair(.stream, nonBlocking: false)
                try DescriptorIO.setNonBlocking(pair.first.rawValue)
                return pair
            }
            ours[channel] = SharedFileDescriptor(pair.first)
            theirs.append(SharedFileDescriptor(pair.second))
        }
        defer { withExtendedLifetime(theirs) {} }
        let process = try HostProgram.start(
            boot.arguments, output: log, errors: log, furtherDescriptors: theirs.map(\.rawValue),
            environment: boot.environment)
        return GuestRelay(
            streams: streams, channels: ours, log: logReader,
            usesTerminalLines: configuration.kernel.monitor == .userModeLinux, process: process)
    }

    private static func deadline(_ seconds: Int, after start: UInt64) -> UInt64 {
        let duration = UInt64(clamping: seconds).multipliedReportingOverflow(by: 1_000_000_000)
        let end = start.addingReportingOverflow(duration.partialValue)
        return duration.overflow || end.overflow ? .max : end.partialValue
    }

    /// A device that was started a moment ago may need another moment for its socket.
    private static func awaitDevice(_ socket: String, cancel: Int32?) throws(GuestError) {
        let deadline = MonotonicClock.now() + deviceNanosecondsMax
        while FileSystem.kind(of: socket) != .socket {
            var wanted = cancel.map { [PollRequest($0, .readable)] } ?? []
            let ready = try? DescriptorIO.waitUntilReady(&wanted, timeoutNanoseconds: deviceCheckNanoseconds)
            guard ready == 0, MonotonicClock.now() < deadline else { throw .noDevice(socket: socket) }
        }
    }

    private static func status(
        _ end: GuestRelay.End, _ relay: GuestRelay, _ configuration: GuestConfiguration
    ) throws(GuestError) -> Int32 {
        let reason: String
        switch end {
        case .exit(let status): return status
        case .cancelled: return cancelledStatus
        case .timedOut: return timedOutStatus
        case .outputClosed: return 128 + Signal.brokenPipe
        case .refused(let text): reason = text
        case .late: reason = "it was not ready after \(configuration.bootSecondsMax) s"
        case .gone: reason = relay.isReady ? "it ended before the command did" : "it ended while booting"
        }
        throw .bootFailed(reason: reason, console: relay.consoleTail)
    }
}
