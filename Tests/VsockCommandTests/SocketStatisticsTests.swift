// SPDX-License-Identifier: Apache-2.0
//
// `vsock ss` with a running `vsock serve`: the cases of the kernel's vsock_diag_test for the table of a daemon.

import Testing
import VsockCore
import VsockSystem
import VsockTestSupport
import VsockTransport
import VsockWire

@testable import vsock

@Suite struct SocketStatisticsTests {
    private let directory: TemporaryDirectory
    private let serve: RunningCommand

    init() throws {
        let directory = try TemporaryDirectory()
        self.directory = directory
        let vms = [3, 4].map { cid in
            ["--vm", "guest-cid=\(cid),socket=\(directory.path)/s\(cid),uds-path=\(directory.path)/v\(cid)"]
        }
        serve = try RunningCommand(["serve", "--control", directory.file("c")] + vms.flatMap { $0 })
        // It says so when everything is there.
        try waitForLine(containing: "QEMU", times: 2)
    }

    private func waitForLine(containing text: String, times: Int) throws {
        var seen = ""
        while seen.count(of: text) < times {
            let events = try DescriptorIO.waitUntilReady(
                serve.output, for: .readable, timeoutNanoseconds: testDeadline)
            try #require(!events.isEmpty, "serve says only: \(seen)")
            var bytes = [UInt8](repeating: 0, count: 4096)
            guard case .count(let count) = bytes.withUnsafeMutableBytes({ DescriptorIO.read(serve.output, into: $0) }),
                count > 0
            else { throw Deadline() }
            seen += String(decoding: bytes[..<count], as: UTF8.self)
        }
    }

    /// The rows of the table.
    private func table(_ arguments: [String] = []) throws -> [[String]] {
        let command = try RunningCommand(
            ["ss", "--control", directory.file("c")] + arguments, inputPath: "/dev/null")
        let text = try readAllText(command.output)
        let result = try command.finish()
        #expect(result.status == 0 && result.error == "")
        let lines = text.split(separator: "\n")
        #expect(lines.first?.hasPrefix("Netid State") == true)
        return lines.dropFirst().map { $0.split(separator: " ").map { String($0) } }
    }

    @Test("no sockets; a listener on the host; a connection, in the table of its VM only")
    func cases() throws {
        #expect(try table().isEmpty)
        let stream = try UnixListener(UnixAddress(directory.file("v3_7")), type: .stream)
        let records = try UnixListener(UnixAddress(directory.file("v4_8")), type: .seqpacket)
        #expect(
            try table() == [
                ["v_str", "LISTEN", "0", "0", "2:7", "3:*", "-", "-"],
                ["v_seq", "LISTEN", "0", "0", "2:8", "4:*", "-", "-"],
            ])
        let guest = try SocketDriver(path: directory.file("s4"))
        let socket = guest.makeSocket(.seqpacket)
        try socket.connect(to: VsockAddress(cid: .host, port: 8))
        let rows = try table(["4"])
        #expect(rows.count == 2)
        #expect(rows.last?.prefix(5) == ["v_seq", "ESTAB", "0", "0", "2:8"])
        #expect(rows.last?.suffix(2) == ["262144", "262144"])
        #expect(try table(["3"]).map { $0[1] } == ["LISTEN"])
        socket.close()
        guest.stop()
        withExtendedLifetime((stream, records)) {}
    }

    @Test("the limits of each VM: value, what counts against it, and how often it was reached")
    func limits() throws {
        let command = try RunningCommand(
            ["ss", "--limits", "--control", directory.file("c"), "4"], inputPath: "/dev/null")
        let rows = try readAllText(command.output).split(separator: "\n").map {
            $0.split(separator: " ").map { String($0) }
        }
        #expect(try command.finish().status == 0)
        #expect(rows.first == ["CID", "Limit", "Value", "Current", "Reached"])
        #expect(rows.dropFirst().map { $0[1] } == DeviceLimits.Name.allCases.map(\.rawValue))
        #expect(rows.contains(["4", "max-connections", "16384", "0", "0"]))
        #expect(rows.contains(["4", "max-chain-segments", "4096", "-", "0"]))
    }

    @Test("no daemon, no such VM, wrong usage: one line that says so")
    func errors() throws {
        for (arguments, status, part) in [
            (["--control", directory.file("none")], 1, "is vsock serve running with --control"),
            (["--control", directory.file("c"), "9"], 1, "there is no VM with CID 9"),
            (["--control", directory.file("c"), "x"], 64, "x"), ([], 64, "--control"),
        ] as [([String], Int32, String)] {
            let result = try RunningCommand(["ss"] + arguments, inputPath: "/dev/null").finish()
            #expect(result.status == status && result.errorLine?.contains(part) == true, "\(result.error)")
        }
    }

    @Test("listeners are found by path, flags and type, and garbage is skipped")
    func listeners() {
        let list = """
            Num       RefCount Protocol Flags    Type St Inode Path
            0000000000000000: 00000002 00000000 00010000 0001 01 1 /v_7
            0000000000000000: 00000002 00000000 00010000 0005 01 2 /v_5
            0000000000000000: 00000003 00000000 00000000 0001 03 3 /v_8
            0000000000000000: 00000002 00000000 00010000 0001 01 4 /v_seqpacket
            0000000000000000: 00000002 00000000 00010000 0001 01 5 /v
            0000000000000000: 00000002 00000000 00010000 0001 01 6 /w_9
            0000000000000000: 00000002 00000000 00010000 0001 01 7
            /v_1 x 00010000
            """
        let found = HostListeners.find(in: list, path: "/v", guestCID: 3)
        #expect(found.map(\.local.port.rawValue) == [5, 7])
        #expect(found.map(\.type) == [.seqpacket, .stream])
    }
}

extension String {
    /// How often `text` is in it.
    fileprivate func count(of text: String) -> Int { ranges(of: text).count }
}
