// SPDX-License-Identifier: Apache-2.0
//
// `vsock guest`: a real Linux guest for one command.

import ArgumentParser
import VsockSystem

struct GuestCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "guest",
        abstract: "Boot a Linux guest with a vsock device and run a command in it.",
        discussion: """
            The guest sees this host's files read-only, with a writable /tmp and /run. The command runs as root in the \
            current directory; its input, output and exit status are this command's.

            Example:  vsock guest --socket /run/vm3.sock -- socat - VSOCK-CONNECT:2:1234
            """)

    @Option(help: "uml (User Mode Linux), qemu, a kernel version such as 6.12, or a kernel image.")
    var kernel = "uml"

    @Option(help: "Memory of the guest in MiB.")
    var memory: Int?

    @Option(help: "The vhost-user socket of its vsock device (vsock serve --socket); without it, it has none.")
    var socket: String?

    @Option(help: "Another kernel module to insert, such as vsock_loopback. Repeatable.")
    var module: [String] = []

    @Option(help: "End the guest after so many seconds, with status 124.")
    var timeout: Int?

    @Flag(help: "Show the guest's console on standard error.")
    var console = false

    @Argument(parsing: .postTerminator, help: "The command and its arguments.")
    var command: [String]

    func validate() throws {
        guard !command.isEmpty else {
            throw ValidationError("the command is missing: vsock guest --socket PATH -- COMMAND")
        }
        if let timeout, timeout <= 0 { throw ValidationError("--timeout takes a number of seconds, 1 or more") }
    }

    func run() throws {
        let status: Int32
        do throws(GuestError) {
            SignalReceiver.ignoreBrokenPipe()
            let signals = try GuestError.naming { () throws(SystemCallError) in
                try SignalReceiver([Signal.interrupt, Signal.terminate, Signal.hangUp])
            }
            var configuration = GuestConfiguration(
                kernel: try GuestKernel.find(kernel), deviceSocket: socket, command: command, memoryMiB: memory)
            configuration.extraModules = module
            configuration.secondsMax = timeout
            let ended = try Guest.run(
                configuration, streams: GuestStreams(cancel: signals.rawDescriptor, console: console ? 2 : nil))
            status = signals.next().map { 128 + $0 } ?? ended
        } catch {
            if let console = error.console { Console.report(console) }
            throw Failure("\(error)")
        }
        throw ExitCode(status)
    }
}
