// SPDX-License-Identifier: Apache-2.0
//
// The tools that people use, in the guest on the kernel's AF_VSOCK and on the host on the hybrid sockets. Goal: a line
// that goes in on one side comes out on the other, whoever connects.

import Testing
import VsockTestPrograms

extension BootedGuests {
    @Suite("Tools in guests")
    @MainActor
    struct GuestToolTests {
        @Test("vsock connect and listen carry lines as records and as a stream", arguments: Load.kernels)
        func vsockCommands(kernel: String) throws {
            let shell = try BootedGuests.take(kernel)
            for kind in ["", "--seqpacket"] {
                let options = kind.split(separator: " ").map(String.init)
                // The guest connects.
                let listener = try Program(
                    "vsock listen",
                    [Place.command, "listen", "--transport", "uds:\(shell.path)", "-v"] + options + ["1300"])
                // It has nothing to send: with its input open, it would go on until the guest closes.
                listener.closeInput()
                try shell.awaitSocket(port: 1300)
                let sent = try shell.run(
                    "printf 'one\\ntwo\\n' | \(Place.command) connect \(kind) 2 1300", seconds: 120)
                #expect(sent.status == 0, "\(kind): \(sent.output)")
                #expect(try listener.end(seconds: 120) == 0)
                #expect(listener.transcript == "one\ntwo\n", "\(kind)")
                // The host connects.
                let inGuest = try shell.start("\(Place.command) listen -v \(kind) 1301 </dev/null")
                try shell.wait(for: "listening", of: inGuest, seconds: 120)
                let client = try Program(
                    "vsock connect",
                    [Place.command, "connect", "--transport", "uds:\(shell.path)"] + options + ["1301"])
                try client.write("three\nfour")
                client.closeInput()
                let received = try shell.finish(inGuest, seconds: 120)
                #expect(received.status == 0)
                #expect(received.output.contains("three\nfour"), "\(kind): \(received.output)")
                #expect(try client.end(seconds: 120) == 0)
            }
            try BootedGuests.giveBack(shell)
        }

        @Test("socat on both sides carries a stream and records", arguments: Load.kernels)
        func socat(kernel: String) throws {
            let shell = try BootedGuests.take(kernel)
            let listener = try Program(
                "socat", ["/usr/bin/socat", "-u", "UNIX-LISTEN:\(shell.path)_1302", "STDOUT"])
            try shell.awaitSocket(port: 1302)
            let sent = try shell.run("echo from socat | socat -u - VSOCK-CONNECT:2:1302", seconds: 120)
            #expect(sent.status == 0, "\(sent.output)")
            #expect(try listener.end(seconds: 120) == 0)
            #expect(listener.transcript == "from socat\n")

            // socat's generic sockets: type 5 is SOCK_SEQPACKET.
            let records = try Program(
                "socat", ["/usr/bin/socat", "-u", "UNIX-LISTEN:\(shell.path)_1303,type=5", "STDOUT"])
            try shell.awaitSocket(port: 1303)
            let record = try shell.run("echo a record | socat -u - VSOCK-CONNECT:2:1303,type=5", seconds: 120)
            #expect(record.status == 0, "\(record.output)")
            #expect(try records.end(seconds: 120) == 0)
            #expect(records.transcript == "a record\n")
            try BootedGuests.giveBack(shell)
        }

        @Test(
            "vsock demo shows a real guest's records and their packets",
            .enabled(if: Load.kernels.contains("uml"), "User Mode Linux is not among the guests to test with"))
        func demo() throws {
            let demo = try Program("vsock demo", [Place.command, "demo", "--guest", "linux"])
            #expect(try demo.end(seconds: 120) == 0, "\(demo.transcript)")
            let lines = demo.transcript.split(separator: "\n")
            #expect(lines.contains { $0.hasPrefix("guest:  booting User Mode Linux") })
            // One packet is a record of the standard framing, from the kernel, which says so in a flag.
            #expect(
                lines.contains { $0.hasPrefix("packet: 3:") && $0.contains(" len=8 ") && $0.hasSuffix("(SEQ_EOM)") })
            #expect(lines.contains { $0.hasPrefix("packet: 2:") && $0.contains(" op=SEQ_BEGIN ") })
            #expect(lines.last?.hasPrefix("demo: SEQPACKET records and a stream crossed both ways") == true)
        }
    }
}
