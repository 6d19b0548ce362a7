// SPDX-License-Identifier: Apache-2.0
//
// Linux as the judge of this package's sockets: the differential tester with some of the scripts that it makes. `make
// differential` runs as many as one likes.

import Foundation
import Testing
import VsockTestPrograms

@Suite("Linux's sockets and ours", .serialized)
struct GuestDifferentialTests {
    private static let seed = 1

    // Linux 6.12 is the one that the sockets are compared with.
    @Test(
        "random socket calls come to the same as on Linux's loopback",
        arguments: Load.kernels.filter { $0 == "6.12" })
    func loopback(kernel: String) throws { try compare("loopback", kernel, callCount: 4000) }

    @Test(
        "random calls on sockets over AF_VSOCK come to the same as system calls",
        arguments: Load.kernels.filter { $0 == "6.12" })
    func kernel(kernel: String) throws { try compare("kernel", kernel, callCount: 2000) }

    private func compare(_ subject: String, _ kernel: String, callCount: Int) throws {
        let command = URL(fileURLWithPath: Place.command).deletingLastPathComponent()
        let tester = try Program(
            "differential, seed \(Self.seed)",
            [
                command.appendingPathComponent("differential").path, "--kernel", kernel, "--vsock", Place.command,
                "--subject", subject, "--seed", "\(Self.seed)", "--calls", "\(callCount)",
            ])
        #expect(try tester.end(seconds: 300) == 0, "\(tester.transcript)")
    }
}
