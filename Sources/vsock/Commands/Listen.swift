// SPDX-License-Identifier: Apache-2.0
//
// `vsock listen`: the server side of nc for vsock.

import ArgumentParser
import Vsock
import VsockSystem

struct Listen: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Listen on a vsock port; relay standard input and output.",
        usage: """
            vsock listen [options] PORT
            vsock listen [options] --transport uds:PATH|device:SOCKET|driver:SOCKET PORT
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
        let capture = try options.captureOption.start(options.transport)
        defer { capture?.finish() }
        let listener = try options.opening.listen(port: try AddressArguments.port(port))
        defer { listener.transport.finish() }
        options.note("listening on \(listener.name)")
        if keepOpen { return try serve(listener) }
        let connection = try accept(listener)
        // Whoever comes now is refused instead of waiting for nothing.
        listener.close()
        do {
            try relay(connection)
        } catch let failure as ConnectionFailure {
            throw Failure(failure.line(connection))
        }
    }

    private func serve(_ listener: RelayListener) throws {
        while true {
            let connection = try accept(listener)
            do {
                try relay(connection)
            } catch let failure as ConnectionFailure {
                if case .input = failure { throw Failure(failure.line(connection)) }
                Console.report("vsock: \(failure.line(connection))")
            }
        }
    }

    private func relay(_ connection: RelaySocket) throws {
        try Relay(
            connection: connection, content: options.content, shutsDown: !options.noShutdown, isRepeated: keepOpen
        ).run()
        options.note("connection of \(connection.peer) ended")
    }

    private func accept(_ listener: RelayListener) throws -> RelaySocket {
        let connection = try listener.accept()
        options.note("connection of \(connection.peer)")
        return connection
    }
}
