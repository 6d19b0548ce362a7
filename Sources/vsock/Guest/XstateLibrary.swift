// SPDX-License-Identifier: Apache-2.0
// Finds the library that lets User Mode Linux run on processors with AMX (Sources/CGuestXstate/ptrace.c says why).
// It is preloaded wherever it is found, since it does nothing where it is not needed.

import VsockSystem

enum XstateLibrary {
    private static let name = "libGuestXstate.so"

    /// What to add to the environment of User Mode Linux.
    ///
    /// - Throws: `invalid` when this processor needs the library and it is not there.
    static func environment() throws(GuestError) -> [String] {
        if let path = directories().map({ $0 + "/" + name }).first(where: FileSystem.exists) {
            // The package manager links every library with the Swift runtime, whose crash handlers must stay out of a
            // kernel that lives on catching signals.
            return ["LD_PRELOAD=" + path, "SWIFT_BACKTRACE=enable=no"]
        }
        let flags = (try? HostFile.lines("/proc/cpuinfo"))?.first { $0.hasPrefix("flags") }
        guard flags?.split(separator: " ").contains("amx_tile") != true else {
            throw .invalid(
                "User Mode Linux needs \(name) beside this program on a processor with AMX: build the whole package "
                    + "with 'swift build', or use --kernel qemu")
        }
        return []
    }

    /// Beside the program, and where an installed one keeps its libraries.
    private static func directories() -> [String] {
        let program = CurrentProcess.executablePath
        guard let slash = program.lastIndex(of: "/") else { return [] }
        let directory = String(program[..<slash])
        return [directory, directory + "/../lib/vsock", directory + "/../lib"]
    }
}
