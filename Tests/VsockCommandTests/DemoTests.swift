// SPDX-License-Identifier: Apache-2.0
//
// `vsock demo` without a virtual machine; GuestToolTests has it with Linux as guest.

import Glibc
import Testing

@Suite("vsock demo")
struct DemoTests {
    @Test("without a Linux guest, records cross in both framings, with their packets, and the last line says so")
    func driver() throws {
        let demo = try RunningCommand(["demo", "--guest", "driver"])
        let result = try demo.finish()
        #expect(result.status == 0 && result.error == "")
        let lines = String(decoding: try readAll(demo.output), as: UTF8.self).split(separator: "\n").map(String.init)
        // A record and its echo: REQUEST and RESPONSE, then one packet each way, or three.
        let operations = lines.filter { $0.hasPrefix("packet: ") }.compactMap { line in
            line.split(separator: " ").first { $0.hasPrefix("op=") }?.dropFirst(3)
        }
        let connecting: [Substring] = ["REQUEST", "RESPONSE"]
        let framed: [Substring] = ["SEQ_BEGIN", "RW", "SEQ_END"]
        let framedInTwo: [Substring] = ["SEQ_BEGIN", "RW", "RW", "SEQ_END"]
        #expect(
            operations == connecting + ["RW", "RW", "RW", "RW", "RW"] + connecting + framed + framed + framed
                + framedInTwo)
        #expect(lines.count { $0 == "host:   record from the guest: \"a record\"" } == 2)
        #expect(lines.count { $0 == "guest:  record from the host: 262144 bytes" } == 2)
        #expect(lines.contains("guest:  record from the host: 307200 bytes"))
        #expect(
            lines.last
                == "demo: SEQPACKET records and a stream crossed both ways between this host and the package's own driver"
                + " (standard framing, RFC v5)")
    }
}
