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
            The guest is User Mode Linux when it is installed (apt install user-mode-linux), else the package's own \
            user-space driver.
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
        if insideGuest { return try DemoGuest { try DescriptorSocket(kernel: $0) }.run() }
        let directory = try TemporaryDirectory()
        let path = directory.path + "/vm.vsock"
        let socket = directory.path + "/vm.sock"
        var log = Logger(label: "vsock", factory: { StreamLogHandler.standardError(label: $0) })
        log.logLevel = .warning
        let daemon = try DeviceDaemon(
            [VsockDeviceConfiguration(guestCID: 3, socketPath: socket, hybridPath: path)], workerLimit: 1, log: log)
        defer { daemon.stop() }
        Console.say("device: CID 3 at \(socket); the host's programs use \(path)…")
        let host = try DemoHost(path: path)
        let hostRun = try BackgroundRun { try host.run() }
        let guest = try runGuest(socket)
        try hostRun.wait()
        Console.say("demo: SEQPACKET records and a stream crossed both ways between this host and \(guest)")
    }

    /// Runs the guest's part; returns what the guest was.
    private func runGuest(_ socket: String) throws -> String {
        if guest != .driver {
            do throws(GuestError) {
                return try runLinux(socket)
            } catch {
                guard guest == .auto, case .notInstalled = error else { throw Failure("\(error)") }
                Console.say("guest:  no Linux guest (\(error)); using the package's own driver")
            }
        }
        Console.say("guest:  the package's own user-space driver")
        let driver = try SocketDriver(path: socket)
        defer { driver.stop() }
        try DemoGuest { driver.makeSocket($0) }.run()
        return "the package's own driver (no Linux guest is installed)"
    }

    private func runLinux(_ socket: String) throws(GuestError) -> String {
        let kernel = try GuestKernel.find("uml")
        Console.say("guest:  booting User Mode Linux \(kernel.release)")
        let configuration = GuestConfiguration(
            kernel: kernel, deviceSocket: socket, command: [CurrentProcess.executablePath, "demo", "--inside-guest"])
        let status = try Guest.run(configuration)
        guard status == 0 else { throw .bootFailed(reason: "its part ended with status \(status)", console: "") }
        return "a User Mode Linux \(kernel.release) guest"
    }
}
