// SPDX-License-Identifier: Apache-2.0
//
// A Swift program on the kernel's AF_VSOCK in a guest, and the same one on the host's hybrid sockets; ExampleTests runs
// it over the other transports. Goal: it says the same on each of them, whichever side connects.

import Testing
import VsockSystem
import VsockTestPrograms

extension BootedGuests {
    @Suite("Swift programs in guests")
    @MainActor
    struct GuestProgramTests {
        /// The example, which is built beside the tests.
        private static let program: String = {
            let path = CurrentProcess.executablePath
            return path[..<(path.lastIndex(of: "/") ?? path.startIndex)] + "/Conversation"
        }()

        /// What its connecting side says.
        private static let conversation = [
            "nobody there: ECONNRESET", "record: 1 of 1 bytes", "record: 1000 of 1000 bytes",
            "record: 100000 of 100000 bytes", "record: too , 8 bytes, cut", "record: next, 4 bytes",
            "records at once: 20 of 20 intact", "records end: true",
            "stream: 3000000 bytes out, 3000000 back, equal", "stream ends: true",
        ]

        // User Mode Linux is a 6.1, so that one need not boot again in QEMU.
        @Test(
            "the same program runs over AF_VSOCK of a guest and over hybrid sockets",
            arguments: Load.kernels.filter { $0 != "6.1" })
        func conversation(kernel: String) throws {
            let shell = try BootedGuests.take(kernel)
            let host = try Program("Conversation", [Self.program, "uds:\(shell.path)", "listen"])
            _ = try host.waitForLine(containing: "listening", seconds: 120)
            let guest = try shell.run("\(Self.program) kernel connect", seconds: 120)
            #expect(guest.output.split(separator: "\n").map(String.init) == Self.conversation)
            #expect(guest.status == 0)
            #expect(try host.end(seconds: 120) == 0)

            let listening = try shell.start("\(Self.program) kernel listen")
            try shell.wait(for: "listening", of: listening, seconds: 120)
            let client = try Program("Conversation", [Self.program, "uds:\(shell.path)", "connect"])
            #expect(try client.end(seconds: 120) == 0)
            #expect(client.transcript.split(separator: "\n").map(String.init) == Self.conversation)
            #expect(try shell.finish(listening, seconds: 120).status == 0)
            try BootedGuests.giveBack(shell)
        }
    }
}
