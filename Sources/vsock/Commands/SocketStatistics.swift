// SPDX-License-Identifier: Apache-2.0
//
// `vsock ss`: the sockets of a running `vsock serve`, in the manner of `ss --vsock`.

import ArgumentParser
import VsockSystem
import VsockTransport

struct SocketStatistics: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "ss",
        abstract: "List the sockets of a running vsock serve.",
        discussion: """
            Recv-Q are bytes of the guest that the program on the other side has not taken, Send-Q bytes for the guest \
            that its program has not taken. Recv-Credit is what the guest may send now, Send-Credit what may be sent to \
            it. Peer is the guest. A connection between two guests has a line for each. Programs on the host that \
            listen for a guest are found in /proc/net/unix.

            Example:  vsock serve --control /run/vsock.control …
                      vsock ss --control /run/vsock.control 3
            """)

    @Option(help: "The control socket of vsock serve.")
    var control: String

    @Flag(help: "Show the limits of each VM instead: value, what counts against it now, and how often it was reached.")
    var limits = false

    @Argument(help: "Only the VM with this CID.")
    var cid: UInt32?

    func run() throws {
        SignalReceiver.ignoreBrokenPipe()
        let subject = limits ? "limits" : "sockets"
        let lines = try ControlClient.ask(cid.map { "\(subject) \($0)" } ?? subject, at: control)
        guard !limits else { return LimitTableText.lines(lines).forEach { Console.say($0) } }
        // Without it, listeners are not known; everything else is.
        let unixSockets = (try? FileSystem.read("/proc/net/unix", limit: 64 << 20)) ?? []
        let list = String(decoding: unixSockets, as: UTF8.self)
        Console.say(SocketTableText.header)
        for line in lines {
            switch line {
            case .vm(let cid, _, let path):
                for entry in HostListeners.find(in: list, path: path, guestCID: cid) {
                    Console.say(SocketTableText.line(entry))
                }
            case .socket(let entry): Console.say(SocketTableText.line(entry))
            case .limit, .error, .end: break
            }
        }
    }
}
