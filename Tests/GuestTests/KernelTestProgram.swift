// SPDX-License-Identifier: Apache-2.0
//
// The kernel's vsock_test and vsock_perf (tools/testing/vsock), built by Scripts/kernel-programs.sh from the sources of a
// Debian package, which Scripts/setup.sh installs.

import Foundation
import VsockTestPrograms

/// vsock_test of one version of Linux, and vsock_perf beside it.
struct KernelTestProgram {
    /// Linux 6.1: streams, records, no MSG_ZEROCOPY yet.
    static let linux61 = KernelTestProgram(version: "6.1", caseCount: 11)
    /// Linux 6.12.
    static let linux612 = KernelTestProgram(version: "6.12", caseCount: 26)

    /// Of Linux.
    let version: String
    /// Cases in its list.
    let caseCount: Int

    /// Where it is, once built.
    var path: String { "\(directory)/vsock_test" }
    /// Where vsock_perf is, once built; Linux 6.1 has none.
    var perfPath: String { "\(directory)/vsock_perf" }

    private var directory: String { "\(Place.package)/.build/kernel-programs/\(version)" }

    /// Whether it can be built here, and these kernels be booted.
    func isAvailable(with kernels: String...) -> Bool {
        FileManager.default.fileExists(atPath: "/usr/src/linux-source-\(version).tar.xz")
            && kernels.allSatisfy(Load.kernels.contains)
    }

    /// Builds both, unless they are newer than their sources.
    func build() throws {
        let script = try Program("the build", ["\(Place.package)/Scripts/kernel-programs.sh", version])
        _ = try script.waitForLine(containing: directory, seconds: 300)
        _ = try script.end(seconds: 10)
    }
}
