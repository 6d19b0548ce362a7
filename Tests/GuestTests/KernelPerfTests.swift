// SPDX-License-Identifier: Apache-2.0
//
// `vsock perf` of the host and the kernel's vsock_perf in the guest, each as the other's sender and receiver. No figure
// is tested.

import Testing
import VsockSystem
import VsockTestPrograms
import VsockTestSupport

extension BootedGuests {
    @Suite(
        "The kernel's vsock_perf",
        .enabled(if: KernelTestProgram.linux612.isAvailable(), "the sources of Linux 6.12 are not installed"))
    @MainActor
    struct KernelPerfTests {
        private let program = KernelTestProgram.linux612.perfPath

        init() throws { try KernelTestProgram.linux612.build() }

        @Test("vsock perf receives all that the kernel's vsock_perf sends", arguments: Load.kernels)
        func guestSends(kernel: String) throws {
            let shell = try BootedGuests.take(kernel)
            let receiver = try Program("vsock perf", perf(shell, port: 1310))
            try shell.awaitSocket(port: 1310)
            let sent = try shell.run("\(program) --sender 2 --port 1310 --bytes 1M --buf-size 4K", seconds: 120)
            #expect(sent.status == 0 && sent.output.contains("total bytes sent: 1048576"), "\(sent.output)")
            #expect(try receiver.end(seconds: 120) == 0)
            #expect(receiver.transcript.contains("\"bytes\": 1048576,"), "\(receiver.transcript)")
            try BootedGuests.giveBack(shell)
        }

        @Test("the kernel's vsock_perf receives all that vsock perf sends", arguments: Load.kernels)
        func hostSends(kernel: String) throws {
            let shell = try BootedGuests.take(kernel)
            // It reads once more when it knows that the sender has ended: by then 256 KiB may wait, its credit.
            let receiver = try shell.start("\(program) --port 1311 --buf-size 256K")
            // It does not say when it listens; until then a sender is refused.
            let deadline = MonotonicClock.now() + testDeadline
            while true {
                let sender = try Program(
                    "vsock perf", perf(shell, port: 1311) + ["--sender", "3", "--bytes", "1M", "--buf-size", "4K"])
                if try sender.end(seconds: 120) == 0 {
                    #expect(sender.transcript.contains("\"bytes\": 1048576,"), "\(sender.transcript)")
                    break
                }
                try #require(MonotonicClock.now() < deadline, "vsock_perf does not listen in the guest")
            }
            let received = try shell.finish(receiver, seconds: 120)
            #expect(
                received.status == 0 && received.output.contains("total bytes received: 1048576"),
                "\(received.output)")
            try BootedGuests.giveBack(shell)
        }

        @Test("vsock perf in a guest sends with MSG_ZEROCOPY where the guest's kernel has it", arguments: Load.kernels)
        func zeroCopy(kernel: String) throws {
            let shell = try BootedGuests.take(kernel)
            let receiver = try Program("vsock perf", perf(shell, port: 1312))
            try shell.awaitSocket(port: 1312)
            let sent = try shell.run(
                "\(Place.command) perf --json --sender 2 --port 1312 --bytes 4M --buf-size 64K --zerocopy", seconds: 120
            )
            let status = try receiver.end(seconds: 120)
            if kernel == "6.12" {
                #expect(sent.status == 0 && sent.output.contains("\"bytes\": 4194304,"), "\(sent.output)")
                // Each call at least once; it reports those that were copied, too.
                let count = sent.output.split(separator: ",").first { $0.contains("\"zerocopy_sends\"") }
                    .flatMap { $0.split(separator: " ").last }.flatMap { Int($0) }
                #expect(count.map { $0 >= 64 } == true, "\(sent.output)")
                #expect(status == 0 && receiver.transcript.contains("\"bytes\": 4194304,"), "\(receiver.transcript)")
            } else {
                #expect(sent.status == 1 && sent.output.contains("--zerocopy: "), "\(sent.output)")
            }
            try BootedGuests.giveBack(shell)
        }

        private func perf(_ shell: GuestShell, port: Int) -> [String] {
            [Place.command, "perf", "--json", "--transport", "uds:\(shell.path)", "--port", "\(port)"]
        }
    }
}
