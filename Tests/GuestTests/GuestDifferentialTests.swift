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
    private static let callCount = 4000

    @Test(
        "random socket calls come to the same as on Linux's loopback",
        arguments: Load.kernels.filter { $0 == "6.12" })
    func calls(kernel: String) throws {
        let command = URL(fileURLWithPath: Place.command).deletingLastPathComponent()
        let tester = try Program(
            "differential, seed \(Self.seed)",
            [
                command.appendingPathComponent("differential").path, "--kernel", kernel, "--vsock", Place.command,
                "--seed", "\(Self.seed)", "--calls", "\(Self.callCount)",
            ])
        #expect(try tester.end(seconds: 300) == 0, "\(tester.transcript)")
    }
}
