// SPDX-License-Identifier: Apache-2.0
//
// The kernel's vsock_test (tools/testing/vsock), built from the sources of a Debian package, which Scripts/setup.sh
// installs. The program is kept beside the tests; nothing else of the sources is.

import Foundation
import VsockSystem
import VsockTestPrograms

enum KernelTestProgram {
    /// Linux 6.12, whose list has as many cases.
    static let caseCount = 26

    private static let sources = "/usr/src/linux-source-6.12.tar.xz"

    /// Where it is, once built.
    static let path: String = URL(fileURLWithPath: CurrentProcess.executablePath).deletingLastPathComponent()
        .appendingPathComponent("vsock_test-6.12").path

    /// Whether it can be built and run here.
    static let isAvailable = FileManager.default.fileExists(atPath: sources) && Load.kernels.contains("6.12")

    /// Builds it, unless it is newer than its sources.
    static func build() throws {
        if let built = date(path), let packed = date(sources), built > packed { return }
        let directory = try TemporaryDirectory()
        let script = """
            set -e; cd \(directory.path)
            tar -xJf \(sources) --strip-components=1 --wildcards '*/tools/testing/vsock' '*/tools/include'
            cd tools/testing/vsock; compiler=$(command -v cc || command -v clang)
            $compiler -O2 -w -D_GNU_SOURCE -I. -I../../include -o vsock_test \
            vsock_test.c vsock_test_zerocopy.c msg_zerocopy_common.c control.c timeout.c util.c
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
