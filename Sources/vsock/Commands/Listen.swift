// SPDX-License-Identifier: Apache-2.0
//
// `vsock listen`: the server side of nc for vsock.

import ArgumentParser
import VsockSystem

struct Listen: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Listen on a vsock port; relay standard input and output.",
        usage: """
            vsock listen [options] PORT
            vsock listen [options] --transport uds:PATH PORT
            """,
        discussion: """
            Takes one connection and relays it like vsock connect; with --keep-open one after the other, until \
            standard output is closed or a signal comes.

            With uds:PATH it listens on the Unix socket PATH_PORT, where the device connects a guest that connects \
            to that port of CID 2.
            """)

    @OptionGroup var options: RelayOptions

    @Flag(
        name: [.customShort("k"), .customLong("keep-open")],
        help: "Take the next connection when one has ended.")
    var keepOpen = false

    @Argument(help: ArgumentHelp("Port.", valueName: "PORT"))
    var port: String

    func validate() throws {
        _ = try AddressArguments.port(port)
    }

    func run() throws {
        try StandardStreams.requireOpen()
        SignalReceiver.ignoreBrokenPipe()
        if keepOpen { return try serve(try listener()) }
        let socket = try accept(try listener())
        // The listener is gone: whoever comes now is refused instead of waiting for nothing.
        do {
            try relay(socket)
        } catch let failure as ConnectionFailure {
            throw Failure(failure.line(socket))
        }
    }

    private func serve(_ listener: any ConnectionListener) throws {
        while true {
            let socket = try accept(listener)
            do {
                try relay(socket)
            } catch let failure as ConnectionFailure {
                if case .input = failure { throw Failure(failure.line(socket)) }
                Console.report("vsock: \(failure.line(socket))")
            }
        }
    }

    private func relay(_ socket: RelaySocket) throws {
        try Relay(
            socket: socket, content: options.content, shutsDown: !options.noShutdown, isRepeated: keepOpen
        ).run()
        options.note("connection of \(socket.peer) ended")
    }

    private func accept(_ listener: any ConnectionListener) throws -> RelaySocket {
        let socket = try listener.next()
        options.note("connection of \(socket.peer)")
        return socket
    }

    private func listener() throws -> any ConnectionListener {
        let number = try AddressArguments.port(port)
        let listener: any ConnectionListener
        if case .hybrid(let path) = options.transport {
            listener = try options.hybrid(path).listen(port: number)
        } else {
            listener = try options.kernel.listen(port: number)
        }
        options.note("listening on \(listener.address)")
        return listener
    }
}
