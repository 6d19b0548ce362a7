// SPDX-License-Identifier: Apache-2.0
//
// The kernel's vsock_test (tools/testing/vsock), built from the sources of a Debian package, which Scripts/setup.sh
// installs. The program is kept beside the tests; nothing else of the sources is.

import Foundation
import VsockSystem
import VsockTestPrograms

/// vsock_test of one version of Linux.
struct KernelTestProgram {
    /// Linux 6.1: streams, records, no MSG_ZEROCOPY yet.
    static let linux61 = KernelTestProgram(version: "6.1", caseCount: 11)
    /// Linux 6.12.
    static let linux612 = KernelTestProgram(version: "6.12", caseCount: 26)

    /// Of Linux.
    let version: String
    /// Cases in its list.
    let caseCount: Int

    private var sources: String { "/usr/src/linux-source-\(version).tar.xz" }

    /// Where it is, once built.
    var path: String {
        URL(fileURLWithPath: CurrentProcess.executablePath).deletingLastPathComponent()
            .appendingPathComponent("vsock_test-\(version)").path
    }

    /// Whether it can be built here, and these kernels be booted.
    func isAvailable(with kernels: String...) -> Bool {
        FileManager.default.fileExists(atPath: sources) && kernels.allSatisfy(Load.kernels.contains)
    }

    /// Builds it, unless it is newer than its sources.
    func build() throws {
        if let built = Self.date(path), let packed = Self.date(sources), built > packed { return }
        let directory = try TemporaryDirectory()
        let script = """
            set -e; cd \(directory.path)
            tar -xJf \(sources) --strip-components=1 --wildcards '*/tools/testing/vsock' '*/tools/include'
            cd tools/testing/vsock; compiler=$(command -v cc || command -v clang); set --
            for file in vsock_test*.c msg_zerocopy_common*.c control.c timeout.c util.c; do
                [ ! -e $file ] || set -- "$@" $file
            done
            $compiler -O2 -w -D_GNU_SOURCE -I. -I../../include -o vsock_test "$@"
            mv vsock_test '\(path)'; echo built
            """
        let shell = try Program("the build of vsock_test", ["/bin/sh", "-c", script])
        _ = try shell.waitForLine(containing: "built", seconds: 300)
        _ = try shell.end(seconds: 10)
    }

    private static func date(_ path: String) -> Date? {
        try? FileManager.default.attributesOfItem(atPath: path)[.modificationDate] as? Date
    }
}
