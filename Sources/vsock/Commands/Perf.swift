// SPDX-License-Identifier: Apache-2.0
//
// `vsock perf`: throughput and latency. The options of the kernel's vsock_perf (tools/testing/vsock), which may be at
// the other end, and more; see `discussion`.

import ArgumentParser
import Vsock
import VsockSystem
import VsockTransport
import VsockWire

struct Perf: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Measure throughput and round trips.",
        discussion: """
            One side, as the kernel's vsock_perf, which may be the other:
              vsock perf [--port P]                        receives until the sender closes
              vsock perf --sender CID [--bytes N]          sends
            In a guest that is AF_VSOCK; on its host, --transport uds:PATH is the other end.

            Both sides in this process:
              vsock perf --transport loopback
              vsock perf --transport driver:SOCKET --uds PATH [--device-pid PID]
            The latter is the guest of any vhost-user-vsock device that listens on SOCKET, and a program on its host, at \
            PATH_PORT: vsock serve or another. --baseline measures what there is without vsock.

            Sizes are numbers, or numbers with K, M or G.
            """)

    @Option(help: ArgumentHelp("Send, to a receiver at this context ID; without it, receive.", valueName: "cid"))
    var sender: String?

    @Option(help: "Port.")
    var port: UInt32 = 1234

    @Option(help: ArgumentHelp("Send so many bytes; 64K for --sender.", valueName: "bytes"))
    var bytes: PerfByteCount?

    @Option(help: ArgumentHelp("Send for so long; 2 with both sides here.", valueName: "seconds"))
    var seconds: Double?

    @Option(
        name: [.customLong("buf-size"), .customLong("message-size")],
        help: ArgumentHelp("Bytes of a message: of a send, of a record, and of a receive.", valueName: "bytes"))
    var bufSize = PerfByteCount(128 << 10)

    @Option(help: ArgumentHelp("Receive buffer of vsock sockets; over uds it is the device's.", valueName: "bytes"))
    var vskSize = PerfByteCount(256 << 10)

    @Option(help: ArgumentHelp("SO_RCVLOWAT of a receiver.", valueName: "bytes"))
    var rcvlowat = PerfByteCount(1)

    @Flag(help: "Send with MSG_ZEROCOPY: of --sender over kernel, from Linux 6.7 on.")
    var zerocopy = false

    @OptionGroup var transportOption: TransportOption
    @OptionGroup var captureOption: CaptureOption

    @Option(help: "stream or seqpacket.")
    var type = PerfSocketType.stream

    @Option(
        help:
            "guest-to-host, host-to-guest, both or round-trip. Of one side: both or round-trip, which the sender begins."
    )
    var direction: PerfDirection?

    @Option(help: "Connections that carry messages.")
    var connections = 1

    @Option(help: "Connections that are open beside them and silent.")
    var idle = 0

    @Option(help: ArgumentHelp("With driver:SOCKET: the device's Unix sockets for its host.", valueName: "path"))
    var uds: String?

    @Flag(help: "With driver:SOCKET: the device is in this process, too.")
    var inProcess = false

    @Flag(help: "With --in-process: one thread sends a message and receives it, in turns.")
    var oneThread = false

    @Option(help: ArgumentHelp("Report the processor time of this process, a device's.", valueName: "pid"))
    var devicePid: Int32?

    @Option(help: "Instead of a transport: unix (two processes), unix-threads, memory-copy or thread-copy.")
    var baseline: PerfBaseline?

    @Flag(help: "Report as one line of JSON.")
    var json = false

    @Option(help: .hidden)
    var inheritedRole: PerfRole?

    func validate() throws {
        if zerocopy {
            guard sender != nil, direction == nil, !hasBothSides else {
                throw ValidationError("--zerocopy is for --sender alone")
            }
            guard case .kernel = transport.kind else {
                throw ValidationError("--zerocopy: only AF_VSOCK has MSG_ZEROCOPY: leave it out over \(transport)")
            }
        }
        guard bytes == nil || seconds == nil else { throw ValidationError("give --bytes or --seconds, not both") }
        if let seconds, !(seconds > 0 && seconds <= 86_400) { throw ValidationError("--seconds is above 0, to 86400") }
        guard (1...65_536).contains(connections), (0...65_536).contains(idle) else {
            throw ValidationError("--connections is 1 to 65536, and --idle 0 to 65536")
        }
        guard vskSize.count <= UInt32.max else { throw ValidationError("--vsk-size is below 4G") }
        guard rcvlowat.count <= vskSize.count else { throw ValidationError("--rcvlowat is at most --vsk-size") }
        guard inheritedRole == nil else { return }
        if oneThread { try validateOneThread() }
        guard baseline == nil else {
            guard captureOption.capture == nil else { throw ValidationError("--capture: a baseline has no packets") }
            return
        }
        try captureOption.validate(for: transport)
        guard uds == nil || !inProcess else { throw ValidationError("give --uds or --in-process, not both") }
        if uds != nil || inProcess {
            guard driverSocket != nil else { throw ValidationError("--uds and --in-process need driver:SOCKET") }
            guard sender == nil else { throw ValidationError("--sender is for one side; here are both") }
            return
        }
        guard devicePid == nil || driverSocket != nil || isHybrid else {
            throw ValidationError("--device-pid needs driver:SOCKET or uds:PATH")
        }
        if !hasBothSides {
            guard direction == nil || direction == .both || direction == .roundTrip else {
                throw ValidationError("--direction of one side is both or round-trip; --sender says who sends")
            }
            if let sender { _ = try AddressArguments.contextID(sender) }
        }
    }

    private func validateOneThread() throws {
        let isOneWay = direction != .both && direction != .roundTrip
        guard inProcess, baseline == nil, connections == 1, idle == 0, isOneWay else {
            throw ValidationError("--one-thread is --in-process, one connection and one direction")
        }
    }

    func run() throws {
        SignalReceiver.ignoreBrokenPipe()
        try ResourceLimits.raiseOpenFiles()
        var plan = plan
        if let inheritedRole {
            _ = try PerfPeers.inherited(plan).run(inheritedRole)
            return
        }
        let capture = try captureOption.open()
        defer { capture?.finish() }
        plan.tap = capture
        plan.progress = try PerfProgress()
        let report: PerfReport
        do {
            defer { plan.progress?.stop() }
            report = try hasBothSides ? measureBothSides(plan) : measureOneSide(plan)
        }
        Console.say(json ? report.json : report.text)
    }

    // MARK: Options

    private var plan: PerfPlan {
        let limit: PerfLimit =
            if let bytes {
                .bytes(bytes.count)
            } else if let seconds {
                .nanoseconds(UInt64(seconds * 1e9))
            } else if hasBothSides {
                .nanoseconds(2_000_000_000)
            } else {
                .bytes(64 << 10)
            }
        return PerfPlan(
            type: type.socketType, messageByteCount: min(bufSize.count, bytes?.count ?? .max),
            connectionCount: connections, idleCount: idle,
            limit: limit, port: port, usesZeroCopy: zerocopy)
    }

    private var transport: VsockTransport { transportOption.transport }

    /// The socket of a driver without keys.
    private var driverSocket: String? {
        let text = transport.description
        return text.hasPrefix("driver:") ? String(text.dropFirst("driver:".count)) : nil
    }

    /// Whether the device is another process's, behind its Unix sockets.
    private var isHybrid: Bool {
        if case .uds = transport.kind { true } else { false }
    }

    private var hasBothSides: Bool {
        baseline != nil || uds != nil || inProcess || transport.description.hasPrefix("loopback")
    }

    // MARK: Both sides

    private func measureBothSides(_ plan: PerfPlan) throws -> PerfReport {
        let direction = direction ?? .guestToHost
        switch baseline {
        case .memoryCopy:
            return PerfReport(
                direction: "copy", transport: "memory", plan: plan, [PerfBaseline.copyMessages(plan)])
        case .threadCopy:
            return PerfReport(
                direction: "copy", transport: "memory of two threads", plan: plan,
                [try PerfBaseline.handOverMessages(plan)])
        case .unix: return try measureProcesses(plan, direction)
        case .unixThreads, nil: break
        }
        if oneThread, let socket = driverSocket {
            let sockets = try AlternatingSockets(
                socket: socket, plan, bufferByteCount: UInt32(clamping: vskSize.count))
            return PerfReport(
                direction: direction.rawValue, transport: "driver:\(socket), in one thread", plan: plan,
                [try sockets.run(direction)])
        }
        var residentByteCount: UInt64?
        let peers = try join(plan) { residentByteCount = try deviceUsage()?.residentByteCount }
        let usage = try deviceUsage()
        let host = peers.host
        let meters = MeterPair()
        let background = try BackgroundRun(name: "host") { meters.host = try host.run(direction.roles.host) }
        meters.guest = try peers.guest.run(direction.roles.guest)
        try background.wait()
        var report = PerfReport(
            direction: direction.rawValue, transport: peers.transport, plan: plan,
            [meters.guest, meters.host].compactMap { $0 })
        if let usage, let end = try deviceUsage() {
            report.deviceProcessorNanoseconds = end.processorNanoseconds - usage.processorNanoseconds
        }
        if plan.idleCount > 0, let residentByteCount, let usage {
            report.deviceByteCountPerIdleConnection =
                Int(usage.residentByteCount - min(residentByteCount, usage.residentByteCount)) / plan.idleCount
        }
        return report
    }

    /// Written by one thread each, before it is waited for.
    private final class MeterPair: @unchecked Sendable {
        var guest: PerfMeter?
        var host: PerfMeter?
    }

    private func join(_ plan: PerfPlan, onOpen: () throws -> Void) throws -> PerfPeers {
        let size = UInt32(clamping: vskSize.count)
        if baseline == .unixThreads { return try .unixThreads(plan) }
        guard let socket = driverSocket else { return try .loopback(transport, plan, bufferByteCount: size) }
        guard let uds else { return try .inProcess(socket: socket, plan, bufferByteCount: size) }
        return try .device(socket: socket, path: uds, plan, bufferByteCount: size, onOpen: onOpen)
    }

    private func deviceUsage() throws -> ProcessUsage? {
        guard let devicePid else { return nil }
        do throws(SystemCallError) {
            return try ProcessUsage(of: devicePid)
        } catch {
            throw Failure("--device-pid \(devicePid): \(error)")
        }
    }

    private func measureProcesses(_ plan: PerfPlan, _ direction: PerfDirection) throws -> PerfReport {
        let roles: (here: PerfRole, there: PerfRole) =
            switch direction {
            case .roundTrip: (.ask, .echo)
            case .both: (.both, .both)
            case .guestToHost, .hostToGuest: (.receive, .send)
            }
        let (peers, child) = try PerfPeers.unixProcesses(plan, roles.there)
        let usage = try ProcessUsage(of: CurrentProcess.identifier)
        let meter = try peers.host.run(roles.here)
        let end = try ProcessUsage(of: CurrentProcess.identifier)
        guard try child.wait() == .exited(0) else { throw Failure("the process at the other end failed") }
        var report = PerfReport(direction: direction.rawValue, transport: peers.transport, plan: plan, [meter])
        if roles.here == .receive {
            report.receiverProcessorNanoseconds = end.processorNanoseconds - usage.processorNanoseconds
        }
        return report
    }

    // MARK: One side

    private func measureOneSide(_ plan: PerfPlan) throws -> PerfReport {
        let usage = try deviceUsage()
        let role: PerfRole =
            switch direction {
            case .both: .both
            case .roundTrip: sender == nil ? .echo : .ask
            default: sender == nil ? .receive : .send
            }
        let meter =
            if zerocopy, let sender { try sendWithoutCopy(plan, cid: sender) } else { try run(role, plan) }
        var report = PerfReport(direction: role.rawValue, transport: transport.description, plan: plan, [meter])
        if let usage, let end = try deviceUsage() {
            report.deviceProcessorNanoseconds = end.processorNanoseconds - usage.processorNanoseconds
        }
        return report
    }

    private func run(_ role: PerfRole, _ plan: PerfPlan) throws -> PerfMeter {
        // Not every transport has packets to see.
        if let tap = plan.tap { try transport.setTap(tap) }
        let sockets = try sender.map { try connect(plan, cid: $0) } ?? accept(plan)
        defer { for socket in sockets { socket.close() } }
        return try SocketSide(sockets, plan).run(role)
    }

    private func sendWithoutCopy(_ plan: PerfPlan, cid: String) throws -> PerfMeter {
        let address = VsockKernelAddress(cid: try AddressArguments.contextID(cid).rawValue, port: plan.port)
        return try DescriptorSide(zeroCopyTo: address, plan, bufferByteCount: UInt64(vskSize.count)).run(.send)
    }

    private var bufferOptions: [SocketOption] {
        isHybrid ? [] : PerfPeers.bufferOptions(UInt32(clamping: vskSize.count))
    }

    private func connect(_ plan: PerfPlan, cid: String) throws -> [VsockSocket] {
        let address = VsockAddress(
            cid: try AddressArguments.contextID(cid), port: VsockAddress.Port(rawValue: plan.port))
        return try (0..<(plan.connectionCount + plan.idleCount)).map { _ in
            do {
                let socket = try VsockSocket.connectBlocking(
                    plan.type, to: address, over: transport, options: bufferOptions)
                try setLowWaterMark(socket)
                return socket
            } catch let error as SocketError {
                throw Failure(
                    "connecting to port \(plan.port) over \(transport): \(error.name): does a receiver wait there?")
            }
        }
    }

    private func accept(_ plan: PerfPlan) throws -> [VsockSocket] {
        let listener: VsockListener
        do {
            listener = try VsockListener.bindBlocking(
                plan.type, port: VsockAddress.Port(rawValue: plan.port), on: transport, options: bufferOptions)
        } catch let error as SocketError {
            throw Failure("listening on port \(plan.port) over \(transport): \(error.name): choose another --port?")
        }
        if !json { Console.report("vsock: receiving on port \(plan.port) over \(transport)") }
        return try (0..<(plan.connectionCount + plan.idleCount)).map { _ in
            let socket = try listener.acceptBlocking()
            try setLowWaterMark(socket)
            return socket
        }
    }

    /// A connection does not have its listener's.
    private func setLowWaterMark(_ socket: VsockSocket) throws {
        guard rcvlowat.count > 1 else { return }
        do throws(SocketError) {
            try socket.set(.receiveLowWaterMark(rcvlowat.count))
        } catch {
            throw Failure("--rcvlowat \(rcvlowat.count): \(error.name): choose a smaller one")
        }
    }
}
