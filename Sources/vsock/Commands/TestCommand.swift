// SPDX-License-Identifier: Apache-2.0
//
// `vsock test`: the kernel's vsock_test over any transport. Options and control protocol are those of the kernel's
// program, so that it may be the other side.

import ArgumentParser
import Vsock
import VsockSystem
import VsockWire

struct TestCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "test",
        abstract: "Run the kernel's vsock tests over any transport, against this program or the kernel's.",
        usage: """
            vsock test [options] --mode server --control-port PORT
            vsock test [options] --mode client --control-host HOST --control-port PORT
            vsock test [options] --transport loopback
            """,
        discussion: """
            Both sides run the same list of cases, each its half of every case, and keep in step over a TCP \
            connection. The server listens for it, on port 0 on any that is free, which it tells. Either side may be \
            vsock_test of the kernel's sources (tools/testing/vsock). The VM's vsock ports --peer-port and the next \
            are used.

            Without --mode both sides run in this process: over loopback, and over kernel with --peer-cid 1.
            """)

    @Option(help: "linux-6.12 (vsock_test of Linux 6.12), or rfc-v5 (that of the RFC v5 series).")
    var suite = TestSuite.linux612

    @OptionGroup var transportOption: TransportOption
    @OptionGroup var captureOption: CaptureOption

    @Option(help: "client or server.")
    var mode: TestMode?

    @Option(help: "Where the server listens for the control connection; for the client, the server. 0.0.0.0 otherwise.")
    var controlHost: String?

    @Option(help: "TCP port of the control connection.")
    var controlPort: UInt16?

    @Option(
        help: ArgumentHelp(
            "Context ID of the other side. Left out: 1 over loopback, 2 over driver, the guest of device and uds.",
            valueName: "cid"),
        transform: AddressArguments.contextID)
    var peerCid: VsockAddress.ContextID?

    @Option(help: ArgumentHelp("vsock port of the tests.", valueName: "port"), transform: AddressArguments.port)
    var peerPort: UInt32 = 1234

    @Flag(help: "List the cases and end.")
    var list = false

    @Option(help: ArgumentHelp("Run only this case. Repeatable.", valueName: "id"))
    var pick: [Int] = []

    @Option(help: ArgumentHelp("Leave this case out. Repeatable.", valueName: "id"))
    var skip: [Int] = []

    func validate() throws {
        let ids = suite.cases.indices
        if let wrong = (pick + skip).first(where: { !ids.contains($0) }) {
            throw ValidationError("there is no case \(wrong): the IDs are 0 to \(ids.upperBound - 1), see --list")
        }
        guard !list else { return }
        try captureOption.validate(for: transportOption.transport)
        let peer = try peerContextID()
        switch mode {
        case nil:
            guard peer == .local, controlHost == nil, controlPort == nil else {
                throw ValidationError("give --mode client or --mode server, and --control-port")
            }
        case .client:
            guard controlHost != nil, controlPort != nil else {
                throw ValidationError("the client needs --control-host and --control-port: where the server listens")
            }
        case .server:
            guard controlPort != nil else { throw ValidationError("the server needs --control-port; 0 is any") }
        }
        if mode != nil, case .loopback = transportOption.transport.kind {
            throw ValidationError("a loopback is within this process, and so are both sides: leave out --mode")
        }
    }

    func run() throws {
        guard !list else { return listCases() }
        SignalReceiver.ignoreBrokenPipe()
        let transport = transportOption.transport
        let capture = try captureOption.start(transport)
        defer { capture?.finish() }
        do {
            defer { transport.finish() }
            // A driver finds its device because the device is there before the control connection.
            if case .device = transport.kind { try transport.open() }
            let control = try mode.map(connectControl)
            try transport.open()
            if let mode, let control { try run(mode, control) } else { try runBoth() }
        } catch let error as TransportError {
            throw Failure(error.description)
        } catch let error as SystemCallError {
            throw Failure("\(error)")
        } catch let error as ControlFailure {
            throw Failure(error.description)
        }
    }

    private func listCases() {
        Console.say("ID\tTest name")
        for (id, test) in suite.cases.enumerated() {
            Console.say("\(id)\t\(test.name)" + (test.note.map { "\t(\($0))" } ?? ""))
        }
    }

    private func peerContextID() throws -> VsockAddress.ContextID {
        if let peerCid { return peerCid }
        switch transportOption.transport.kind {
        case .loopback: return .local
        case .driver: return .host
        case .device(_, let guest, _): return VsockAddress.ContextID(rawValue: guest)
        case .uds: return .any
        case .kernel: throw ValidationError("--peer-cid is missing: the context ID of the other side")
        }
    }

    private var skipped: Set<Int> {
        let picked = pick.isEmpty ? Set(suite.cases.indices) : Set(pick)
        return Set(suite.cases.indices).subtracting(picked).union(skip)
    }

    private func run(_ mode: TestMode, _ control: ControlConnection, isQuiet: Bool = false) throws {
        let side = TestSide(
            transport: transportOption.transport, peerCID: try peerContextID(),
            port: VsockAddress.Port(rawValue: peerPort), control: control)
        try TestRunner(suite: suite, mode: mode, side: side, skipped: skipped, isQuiet: isQuiet).run()
    }

    /// Both sides in this process. The failure that counts is that of the side which was not left by the other.
    private func runBoth() throws {
        let pair = try UnixSocket.makePair(.stream, nonBlocking: true)
        let control = ControlConnection(pair.first)
        let serverControl = ControlConnection(pair.second)
        let server = try BackgroundRun(name: "server") { [self] in
            defer { serverControl.close() }
            try run(.server, serverControl, isQuiet: true)
        }
        do {
            try run(.client, control)
        } catch is ControlFailure {
            control.close()
            try server.wait()
            throw Failure("the two sides are out of step")
        }
        try server.wait()
    }

    private func connectControl(_ mode: TestMode) throws -> ControlConnection {
        let host = controlHost ?? "0.0.0.0"
        let port = controlPort ?? 0
        if mode == .client {
            let descriptor = try InternetSocket.connect(host: host, port: port)
            try DescriptorIO.setNonBlocking(descriptor.rawValue)
            Console.say("Control socket connected to \(host):\(port).")
            return ControlConnection(descriptor)
        }
        let listener = try InternetSocket.listen(host: host, port: port)
        Console.say("Control socket listening on \(host):\(try InternetSocket.localPort(listener.rawValue))")
        while true {
            guard let connection = try InternetSocket.accept(listener.rawValue) else { continue }
            Console.say("Control socket connection accepted...")
            return ControlConnection(connection)
        }
    }
}

extension TestSuite: ExpressibleByArgument {}
extension TestMode: ExpressibleByArgument {}
