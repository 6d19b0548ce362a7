// SPDX-License-Identifier: Apache-2.0
//
// `vsock connect`: the client side of nc for vsock.

import ArgumentParser
import Vsock
import VsockSystem
import VsockWire

struct Connect: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Connect to a vsock port; relay standard input and output.",
        usage: """
            vsock connect [options] CID PORT
            vsock connect [options] --transport uds:PATH|device:SOCKET PORT
            """,
        discussion: """
            Standard input goes to the peer, and what the peer sends to standard output, until both have ended. The \
            end of standard input shuts the sending direction; the peer's answer still arrives.

            With --seqpacket, lines are records: printf 'one\\ntwo\\n' | vsock connect --seqpacket 3 1234

            CID is a number, "host" (2) or "local" (1). With uds:PATH and device:SOCKET it may be left out: a device \
            has one guest.
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
        let capture = try options.captureOption.start(options.transport)
        defer { capture?.finish() }
        let connection = try options.opening.connect(to: try target(), timeoutSeconds: connectTimeout)
        defer { connection.transport.finish() }
        options.note("connected to \(connection.peer)")
        let relay = Relay(
            connection: connection, content: options.content, shutsDown: !options.noShutdown, isRepeated: false)
        do {
            try relay.run()
        } catch let failure as ConnectionFailure {
            throw Failure(failure.line(connection))
        }
    }

    /// The address; the context ID may be left out where there is one guest.
    private func target() throws -> VsockAddress {
        func to(_ cid: VsockAddress.ContextID, _ port: String) throws -> VsockAddress {
            VsockAddress(cid: cid, port: VsockAddress.Port(rawValue: try AddressArguments.port(port)))
        }
        switch (address.count, options.transport.kind) {
        case (1, .uds): return try to(.any, address[0])
        case (1, .device(_, let guest, _)): return try to(VsockAddress.ContextID(rawValue: guest), address[0])
        case (2, _): return try to(AddressArguments.contextID(address[0]), address[1])
        case (1, _): throw ValidationError("PORT is missing: vsock connect CID PORT")
        case (0, .uds), (0, .device):
            throw ValidationError("PORT is missing: vsock connect --transport \(options.transport) PORT")
        case (0, _): throw ValidationError("CID and PORT are missing: vsock connect CID PORT")
        default: throw ValidationError("too many arguments: vsock connect CID PORT")
        }
    }
}
