// SPDX-License-Identifier: Apache-2.0
//
// `vsock serve`: the device daemon. Option names, keys and defaults are those of vhost-device-vsock.

import ArgumentParser
import Logging
import VsockSystem
import VsockTransport

struct Serve: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Give virtual machines a vsock device (vhost-user back-end).",
        discussion: """
            One VM:      vsock serve --guest-cid 3 --socket /run/vm3.sock --uds-path /run/vm3.vsock
            Several:     vsock serve --vm guest-cid=3,socket=…,uds-path=… --vm guest-cid=4,…
                         vsock serve --config vms.yaml

            A program on the host reaches port 1234 of the guest by connecting to the Unix socket UDS-PATH and sending \
            "CONNECT 1234\\n" (answer "OK <port>\\n"), or to UDS-PATH_seqpacket for SOCK_SEQPACKET. A program in the \
            guest reaches, at CID 2 port 1234, the program on the host that listens on UDS-PATH_1234. Guests that share a \
            group reach each other by CID.

            What is given for all VMs (--tx-buffer-size, --queue-size, --groups, --seqpacket, --limit, --capture) holds \
            for those of --vm and --config that do not say otherwise. vsock ss --limits shows how limits stand.
            """)

    @Option(name: [.customLong("guest-cid"), .customLong("guest_cid")], help: "Context ID of the guest.")
    var guestCID: UInt32?

    @Option(help: "The vhost-user socket to create, for the VM's monitor.")
    var socket: String?

    @Option(
        name: [.customLong("uds-path"), .customLong("uds_path")],
        help: "The Unix socket to create, for programs on the host.")
    var udsPath: String?

    @Option(
        name: [.customLong("tx-buffer-size"), .customLong("tx_buffer_size")],
        help: "Receive buffer of each connection, in bytes: what a guest may have in flight.")
    var txBufferSize: UInt32 = VsockDeviceConfiguration.defaultBufferByteCount

    @Option(
        name: [.customLong("queue-size"), .customLong("queue_size")], help: "Largest virtqueue, in descriptors.")
    var queueSize = VsockDeviceConfiguration.defaultQueueSize

    @Option(help: "Groups of the VM, as a+b: guests that share one reach each other.")
    var groups = "default"

    @Option(help: "Framing of SOCK_SEQPACKET: auto, standard, rfc-v5 or off.")
    var seqpacket: SeqpacketMode = .auto

    @Option(
        name: .customLong("vm"),
        help: ArgumentHelp(
            """
            A VM: guest-cid=N,socket=PATH,uds-path=PATH[,tx-buffer-size=N][,queue-size=N]\
            [,groups=A+B][,seqpacket=MODE][,capture=FILE][,max-…=N]. Repeatable.
            """,
            valueName: "key=value,…"))
    var vms: [String] = []

    @Option(help: ArgumentHelp("A YAML file with the VMs: a list vms: of the keys of --vm.", valueName: "file"))
    var config: String?

    @Option(
        name: .customLong("limit"),
        help: ArgumentHelp(
            "Limits of a VM: \(DeviceLimits.Name.allCases.map(\.rawValue).joined(separator: ", ")). Repeatable.",
            valueName: "key=N,…"))
    var limits: [String] = []

    @Option(
        name: [.customLong("busy-poll"), .customLong("busy_poll")],
        help: ArgumentHelp(
            """
            How long a thread may look for events before it sleeps: traffic that goes to and fro is answered sooner, and \
            takes more processor time. 0 never looks.
            """,
            valueName: "µs"))
    var busyPollMicroseconds: UInt32 = UInt32(WorkerOptions().busyPollNanoseconds / 1000)

    @Flag(
        name: [.customLong("follow-peers"), .customLong("follow_peers")], inversion: .prefixedNo,
        help: """
            Let a thread that serves one busy connection run on its host program's processor, as long as that costs \
            less and carries as much.
            """)
    var followsPeers = true

    @Option(
        help: """
            Threads at most, as many as processors without it. VMs that share one take turns; one for each VM leaves it \
            to the kernel to share the processors among them.
            """)
    var threads = ResourceLimits.processorCount

    @Option(help: "A Unix socket to create, for vsock ss; only its owner can connect.")
    var control: String?

    @Option(help: ArgumentHelp("Capture the packets of all VMs into a pcap file.", valueName: "file"))
    var capture: String?

    @Option(
        name: [.customLong("capture-snaplen"), .customLong("capture_snaplen")],
        help: ArgumentHelp(
            "Bytes of a packet that a capture keeps, headers included; 84 leaves the payload out.",
            valueName: "bytes"))
    var captureSnapLength = PacketCapture.defaultSnapLength

    @Option(
        name: [.customLong("capture-limit"), .customLong("capture_limit")],
        help: ArgumentHelp(
            "Bytes at which the file of a capture ends; without it, it may fill the disk.", valueName: "bytes"))
    var captureLimit: UInt64?

    @Option(
        name: .customLong("log-level"),
        help: """
            What is logged on standard error: trace (every packet), debug, info, notice, warning, error or critical.
            """)
    var logLevel: Logger.Level = .info

    @Option(
        name: [.customLong("socket-mode"), .customLong("socket_mode")],
        help: "Permissions of the sockets, in octal: connecting needs the right to write.")
    var socketMode: SocketMode = SocketMode(0o600)

    @Option(
        name: [.customLong("socket-owner"), .customLong("socket_owner")],
        help: ArgumentHelp("Whom the sockets belong to, names or numbers.", valueName: "user[:group]"))
    var socketOwner: FileOwner?

    @Flag(
        name: .customLong("sandbox"), inversion: .prefixedNo,
        help: "Give up all rights that a running device does not need, as far as the kernel allows.")
    var isSandboxed = true

    func validate() throws {
        guard threads > 0 else { throw ValidationError("--threads is at least 1") }
        guard captureSnapLength >= PacketCapture.minimumSnapLength else {
            throw ValidationError("--capture-snaplen is at least \(PacketCapture.minimumSnapLength), for the headers")
        }
    }

    func run() throws {
        var configurations = try virtualMachines().map { vm in
            var vm = vm
            vm.socketMode = socketMode.bits
            vm.socketOwner = socketOwner
            vm.capturePath = vm.capturePath ?? capture
            vm.captureSnapLength = captureSnapLength
            vm.captureByteLimit = captureLimit
            return vm
        }
        SignalReceiver.ignoreBrokenPipe()
        try MemoryFaults.survive()
        let signals = try SignalReceiver()
        _ = try ResourceLimits.raiseOpenFiles()
        var log = Logger(label: "vsock", factory: { StreamLogHandler.standardError(label: $0) })
        log.logLevel = logLevel
        // No file can be opened later.
        let captures = try DeviceCaptures(opening: &configurations, log: log)
        if isSandboxed { enterSandbox(configurations) }
        var options = WorkerOptions()
        options.busyPollNanoseconds = UInt64(busyPollMicroseconds) * 1000
        options.followsPeers = followsPeers
        let daemon = try DeviceDaemon(configurations, workerLimit: threads, options: options, log: log)
        let server: ControlServer?
        do {
            server = try control.map { try ControlServer(path: $0, owner: socketOwner, daemon: daemon) }
        } catch {
            daemon.stop()
            throw error
        }
        for configuration in configurations { announce(configuration) }
        waitForSignal(signals)
        log.info("stopping")
        server?.stop()
        daemon.stop()
        captures.finish()
    }

    /// Before there are other threads, which inherit what is left.
    private func enterSandbox(_ configurations: [VsockDeviceConfiguration]) {
        let paths = configurations.flatMap { [$0.socketPath, $0.hybridPath] } + [control].compactMap { $0 }
        Console.say("sandbox: \(Sandbox.enter(socketDirectories: paths.map(FileSystem.directory(of:))))")
    }

    private func waitForSignal(_ signals: borrowing SignalReceiver) {
        while true {
            _ = try? DescriptorIO.waitUntilReady(
                signals.rawDescriptor, for: .readable, timeoutNanoseconds: nil)
            if signals.next() != nil { return }
        }
    }

    // MARK: Configuration

    private func virtualMachines() throws -> [VsockDeviceConfiguration] {
        if config != nil || !vms.isEmpty {
            guard guestCID == nil, socket == nil, udsPath == nil, config == nil || vms.isEmpty else {
                throw ValidationError("VMs are described by --config, by --vm, or by --socket and --uds-path: give one")
            }
            if let config { return try ConfigurationFile.load(config, defaults: try defaults()) }
        }
        guard vms.isEmpty else {
            let defaults = try defaults()
            do throws(VirtualMachineError) {
                return try vms.map { (text) throws(VirtualMachineError) in
                    try VirtualMachineOption.parse(text, defaults: defaults)
                }
            } catch {
                throw ValidationError("--vm: \(error.description)")
            }
        }
        guard let socket else { throw ValidationError("--socket is missing: where shall the VM's monitor connect?") }
        guard let udsPath else { throw ValidationError("--uds-path is missing: where shall host programs connect?") }
        var configuration = try defaults()
        configuration.guestCID = guestCID ?? VirtualMachineOption.defaultGuestCID
        configuration.socketPath = socket
        configuration.hybridPath = udsPath
        return [configuration]
    }

    /// What holds for a VM that does not say otherwise.
    private func defaults() throws -> VsockDeviceConfiguration {
        var configuration = VirtualMachineOption.noDefaults
        configuration.bufferByteCount = txBufferSize
        configuration.queueSize = queueSize
        configuration.seqpacket = seqpacket
        do throws(VirtualMachineError) {
            configuration.groups = try VirtualMachineOption.groups(groups)
        } catch {
            throw ValidationError("--\(error.description)")
        }
        do throws(VirtualMachineError) {
            for text in limits {
                configuration.limits = try VirtualMachineOption.limits(text, on: configuration.limits)
            }
        } catch {
            throw ValidationError("--limit: \(error.description)")
        }
        return configuration
    }

    private func announce(_ vm: VsockDeviceConfiguration) {
        Console.say(
            """
            VM with CID \(vm.guestCID): SOCK_STREAM\(vm.seqpacket == .off ? "" : " and SOCK_SEQPACKET (\(vm.seqpacket.rawValue))")
              host to guest   connect to \(vm.hybridPath) (records: \(vm.hybridPath)_seqpacket), say "CONNECT <port>"
              guest to host   listen on \(vm.hybridPath)_<port>; in the guest connect to CID 2
              QEMU            -object memory-backend-memfd,id=mem,size=<RAM>,share=on -machine memory-backend=mem \
            -chardev socket,id=vsock\(vm.guestCID),path=\(vm.socketPath) \
            -device vhost-user-vsock-pci,chardev=vsock\(vm.guestCID)
            """)
    }
}

extension SeqpacketMode: ExpressibleByArgument {}
extension Logger.Level: @retroactive ExpressibleByArgument {}
