// SPDX-License-Identifier: Apache-2.0
//
// `vsock demo`: a device, a guest and a host program in one command.

import ArgumentParser
import Logging
import VsockSystem
import VsockTransport

struct Demo: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Show records and a stream crossing between a guest and this host.",
        discussion: """
            In the standard framing the guest is User Mode Linux when it is installed (apt install user-mode-linux), \
            else the package's own user-space driver. In the framing of the RFC v5 series it is always the latter. Of \
            the first records the packets are shown as they cross.
            """)

    /// Which guest to use.
    enum GuestKind: String, ExpressibleByArgument, CaseIterable {
        case auto
        case linux
        case driver
    }

    @Option(help: "The guest: auto, linux (User Mode Linux) or driver (the package's own).")
    var guest: GuestKind = .auto

    @Flag(help: .hidden)
    var insideGuest = false

    func run() throws {
        SignalReceiver.ignoreBrokenPipe()
        if insideGuest {
            return try DemoGuest(records: DemoTraffic.records(.standard)) { try DescriptorSocket(kernel: $0) }.run()
        }
        let kernel = try guestKernel()
        Console.say("Standard framing (virtio 1.2, Linux since 5.14): a flag on the last packet of a record")
        try show(.standard, kernel)
        Console.say("\nFraming of the RFC v5 series: SEQ_BEGIN and SEQ_END around each record, of any size")
        try show(.rfcV5, nil)
        let guests =
            kernel.map { "a User Mode Linux \($0.release) guest (standard framing) and \(Self.driverName) (RFC v5)" }
            ?? "\(Self.driverName) (standard framing, RFC v5)"
        Console.say("\ndemo: SEQPACKET records and a stream crossed both ways between this host and \(guests)")
    }

    private static let driverName = "the package's own driver"

    /// The kernel of the Linux guest; nil for the package's own driver as guest.
    private func guestKernel() throws -> GuestKernel? {
        guard guest != .driver else { return nil }
        do throws(GuestError) {
            return try GuestKernel.find("uml")
        } catch {
            guard guest == .auto, case .notInstalled = error else { throw Failure("\(error)") }
            Console.say("no Linux guest (\(error)): the package's own driver is the guest\n")
            return nil
        }
    }

    /// One device, its guest and its host program.
    private func show(_ framing: SeqpacketMode, _ kernel: GuestKernel?) throws {
        let directory = try TemporaryDirectory()
        let path = directory.path + "/vm.vsock"
        let socket = directory.path + "/vm.sock"
        var log = Logger(label: "vsock", factory: { StreamLogHandler.standardError(label: $0) })
        log.logLevel = .warning
        var configuration = VsockDeviceConfiguration(guestCID: 3, socketPath: socket, hybridPath: path)
        configuration.seqpacket = framing
        configuration.tap = DemoTrace()
        let daemon = try DeviceDaemon([configuration], workerLimit: 1, log: log)
        defer { daemon.stop() }
        Console.say("device: CID 3 at \(socket); the host's programs use \(path)…")
        let records = DemoTraffic.records(framing)
        let host = try DemoHost(path: path, records: records)
        let hostRun = try BackgroundRun(name: "host") { try host.run() }
        if let kernel {
            try runLinux(kernel, socket)
        } else {
            Console.say("guest:  \(Self.driverName), without a virtual machine")
            let driver = try SocketDriver(path: socket, options: .pages)
            defer { driver.stop() }
            try DemoGuest(records: records) { driver.makeSocket($0) }.run()
        }
        try hostRun.wait()
    }

    private func runLinux(_ kernel: GuestKernel, _ socket: String) throws {
        Console.say("guest:  booting User Mode Linux \(kernel.release)")
        let configuration = GuestConfiguration(
            kernel: kernel, deviceSocket: socket, command: [CurrentProcess.executablePath, "demo", "--inside-guest"])
        do throws(GuestError) {
            let status = try Guest.run(configuration)
            guard status == 0 else { throw .bootFailed(reason: "its part ended with status \(status)", console: "") }
        } catch {
            throw Failure("\(error)")
        }
    }
}
