// SPDX-License-Identifier: Apache-2.0
//
// A whole device, from the rings to the host programs' sockets, against a driver that knows the protocol and breaks it:
// packets that are right and come at the wrong time, in chains of any shape, over memory that is written to meanwhile;
// queues that stop and start anew, with and without a record of what a device before this one had in flight; and host
// programs that connect, say something, read nothing, shut down and leave.
//
// One thread plays all of them. The event loop never runs: what it would call is called here.

import Logging
import VsockSystem
import VsockWire

@testable import VirtioQueue
@testable import VsockCore
@testable import VsockTransport

enum DeviceFuzz {
    static func run(_ input: inout FuzzInput, _ bench: FuzzBench) throws(FuzzFinding) {
        let fuzz: DeviceUnderFuzz
        do throws(SystemCallError) {
            fuzz = try DeviceUnderFuzz(&input, bench)
        } catch {
            throw FuzzFinding("no descriptors: \(error)")
        }
        let driver = try HostileDriver(&input, bench)
        let programs = HostPrograms()
        driver.start(fuzz, at: 0, count: VsockDevice.QueueIndex.count)
        while !input.isEmpty {
            switch input.below(24) {
            case 0...4: driver.send(&input)
            case 5: driver.post(&input)
            case 6: driver.postEvent(&input)
            case 7...12: try driver.step(fuzz, &input)
            case 13, 14: try fuzz.run()
            case 15...17: programs.step(fuzz, &input)
            case 18: programs.connect(fuzz, &input)
            case 19...21: programs.talk(&input)
            default:
                try fuzz.run()
                fuzz.poll()
            }
        }
        try fuzz.run()
        programs.leave()
        fuzz.poll()
        try fuzz.finish()
    }
}

/// The device with the part of the event loop that the fuzzer plays.
final class DeviceUnderFuzz {
    /// Turns of a device after which it has not come to rest: far above what the rings can hold.
    private static let turnLimit = 10_000
    /// An input of so many bytes may have its lines made.
    private static let tracedByteCount = 64

    let device: VsockDevice
    let host: HybridHost
    let loop: EventLoop
    let log: Logger
    /// Whether host programs can listen where the device looks for them.
    let hasPath: Bool

    init(_ input: inout FuzzInput, _ bench: FuzzBench) throws(SystemCallError) {
        let options = input.byte()
        loop = try bench.restingLoop()
        // Lines are made, and thrown away. To make them takes longer than all the rest, and what they can show of a long
        // input they show of a short one.
        var log = Logger(label: "fuzz") { _ in FuzzLog() }
        log.logLevel = options & 0x81 == 0x81 && input.byteCount <= Self.tracedByteCount ? .trace : .critical
        self.log = log
        hasPath = options & 0x40 != 0
        let path = hasPath ? try bench.socketPath() : "/nowhere/v"
        var configuration = VsockDeviceConfiguration(guestCID: 3, socketPath: "/nowhere", hybridPath: path)
        // The loop's second is never over.
        configuration.limits[.monitorMilliseconds] = DeviceLimits.Name.monitorMilliseconds.range.upperBound
        configuration.seqpacket = SeqpacketMode.allCases[Int(options >> 1 & 3)]
        var endpoint = EndpointConfiguration(localCID: .host, peerCID: .init(rawValue: 3), framing: .none)
        endpoint.bufferByteCount = [262_144, 4096, 64, 1 << 30][Int(options >> 3 & 3)]
        endpoint.maximumConnectionCount = 8
        endpoint.maximumReplyCount = 4
        if options & 0x20 != 0 {
            endpoint.connectTimeoutNanoseconds = 0
            endpoint.closeTimeoutNanoseconds = 0
        }
        host = HybridHost(
            path: path, endpoint: endpoint, limits: LimitWatch(configuration.limits, log: log),
            memoryLoss: MemoryLoss(), loop: loop, log: log)
        device = VsockDevice(configuration, host: host, loop: loop, log: log)
    }

    /// Lets the device work until it rests, as the loop would.
    func run() throws(FuzzFinding) {
        var turns = 0
        while device.run() {
            turns += 1
            try expect(turns < Self.turnLimit, "a device comes to rest")
        }
        try expect(host.endpoint.connectionCount <= 8, "the limit of connections holds")
    }

    /// Tells the host of sockets that are ready, as the poller would.
    func poll() {
        for socket in host.sockets.compactMap({ $0 }) + host.lingering {
            let wanted: PollEvents =
                socket.isWritable ? [.readable, .readHangUp] : [.readable, .readHangUp, .writable]
            let events = try? DescriptorIO.waitUntilReady(
                socket.descriptor.rawValue, for: wanted, timeoutNanoseconds: 0)
            if let events, !events.isEmpty { host.ready(socket, events) }
        }
    }

    /// Nothing is left when the driver has gone.
    func finish() throws(FuzzFinding) {
        device.driverLeft()
        poll()
        let count = host.endpoint.connectionCount
        try expect(count == 0, "\(count) connections outlive the driver")
        try expect(host.sockets.allSatisfy { $0 == nil } && host.lingering.isEmpty, "sockets outlive their programs")
        device.stop()
        try expect(!loop.hasScheduledTasks && loop.nextDeadline == nil, "a device that has ended has nothing to do")
    }
}

/// A log that nobody reads.
private struct FuzzLog: LogHandler {
    var logLevel = Logger.Level.trace
    var metadata: Logger.Metadata = [:]

    subscript(metadataKey key: String) -> Logger.Metadata.Value? {
        get { metadata[key] }
        set { metadata[key] = newValue }
    }

    func log(event: LogEvent) {
        _ = event.message.description
        for value in (event.metadata ?? [:]).values { _ = value.description }
    }
}
