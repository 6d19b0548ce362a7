// SPDX-License-Identifier: Apache-2.0
//
// The command `vsock`. Exit status: 0 success, 1 failure, 64 usage; errors are one line on standard error.

import ArgumentParser

@main
struct VsockCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "vsock",
        abstract: "Virtio sockets for virtual machines, with SOCK_SEQPACKET, in user space.",
        subcommands: [
            Serve.self, SocketStatistics.self, Connect.self, Listen.self, GuestCommand.self, Dump.self,
            TestCommand.self, Perf.self, Demo.self, Simulate.self,
        ])
}
