// SPDX-License-Identifier: Apache-2.0
//
// `vsock connect`: the client side of nc for vsock.

import ArgumentParser
import VsockSystem
import VsockWire

struct Connect: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Connect to a vsock port; relay standard input and output.",
        usage: """
            vsock connect [options] CID PORT
            vsock connect [options] --transport uds:PATH PORT
            """,
        discussion: """
            Standard input goes to the peer, and what the peer sends to standard output, until both have ended. The \
            end of standard input shuts the sending direction; the peer's answer still arrives.

            With --seqpacket, lines are records: printf 'one\\ntwo\\n' | vsock connect --seqpacket 3 1234

            CID is a number, "host" (2) or "local" (1). With uds:PATH it may be left out: a device has one guest.
            """)

    @OptionGroup var options: RelayOptions

    @Option(
        name: [.customShort("w"), .customLong("connect-timeout")],
        help: ArgumentHelp("Give up when the connection is not made after so long.", valueName: "seconds"))
    var connectTimeout: UInt32 = 10

    @Argument(help: ArgumentHelp("Context ID and port.", valueName: "CID PORT"))
    var address: [String] = []

    func validate() throws {
        guard connectTimeout > 0 else { throw ValidationError("--connect-timeout is at least 1 second") }
        _ = try target()
    }

    func run() throws {
        try StandardStreams.requireOpen()
        SignalReceiver.ignoreBrokenPipe()
        let socket = try open()
        options.note("connected to \(socket.peer)")
        let relay = Relay(
            socket: socket, content: options.content, shutsDown: !options.noShutdown, isRepeated: false)
        do {
            try relay.run()
        } catch let failure as ConnectionFailure {
            throw Failure(failure.line(socket))
        }
    }

    /// The address; the CID is nil if it was left out, as it may be where there is one guest.
    private func target() throws -> (cid: VsockAddress.ContextID?, port: UInt32) {
        switch (address.count, options.transport) {
        case (1, .hybrid): return (nil, try AddressArguments.port(address[0]))
        case (2, _):
            return (try AddressArguments.contextID(address[0]), try AddressArguments.port(address[1]))
        case (1, _): throw ValidationError("PORT is missing: vsock connect CID PORT")
        case (0, .hybrid): throw ValidationError("PORT is missing: vsock connect --transport uds:PATH PORT")
        case (0, _): throw ValidationError("CID and PORT are missing: vsock connect CID PORT")
        default: throw ValidationError("too many arguments: vsock connect CID PORT")
        }
    }

    private func open() throws -> RelaySocket {
        let (cid, port) = try target()
        let timeout = UInt64(connectTimeout) * 1_000_000_000
        if case .hybrid(let path) = options.transport {
            return try options.hybrid(path).connect(port: port, timeoutNanoseconds: timeout)
        }
        return try options.kernel.connect(cid ?? .host, port: port, timeoutNanoseconds: timeout)
    }
}
