// SPDX-License-Identifier: Apache-2.0
// A guest in the background of a test: its output in memory, its end with a deadline of its own.

import Testing
import VsockSystem

@testable import vsock

/// What became of a guest.
struct GuestResult {
    var status: Int32?
    var error: GuestError?
    var output = ""
    var errors = ""
    var milliseconds = 0
}

/// Runs guests for tests.
enum GuestRun {
    /// The kernels of this machine that a guest can boot; a test for each of them is skipped where it is missing.
    static let kernels = ["uml", "6.1", "6.12"].filter { (try? GuestKernel.find($0)) != nil }

    /// Longest time for a guest in these tests: minutes more than it takes on a busy machine.
    private static let secondsMax = 600

    /// Boots a guest, runs the command and waits for its end, all on a thread of its own.
    static func run(
        _ kernel: String, _ command: [String], input: [UInt8]? = nil, cancelAfterReady: Bool = false,
        configure: @escaping @Sendable (inout GuestConfiguration) -> Void = { _ in }
    ) async -> GuestResult {
        await withCheckedContinuation { continuation in
            // Not a task: the call blocks, and tasks share few threads.
            do throws(SystemCallError) {
                _ = try WorkerThread(name: "guest") {
                    continuation.resume(
                        returning: runBlocking(
                            kernel, command, input: input, cancelAfterReady: cancelAfterReady, configure: configure))
                }
            } catch {
                continuation.resume(
                    returning: GuestResult(error: .system(call: "\(error.call)", errno: error.errno)))
            }
        }
    }

    private static func runBlocking(
        _ kernel: String, _ command: [String], input: [UInt8]?, cancelAfterReady: Bool,
        configure: (inout GuestConfiguration) -> Void
    ) -> GuestResult {
        let start = MonotonicClock.now()
        var result = GuestResult()
        do {
            let directory = try GuestError.naming { () throws(SystemCallError) in try TemporaryDirectory() }
            let paths = ["input", "output", "errors"].map { directory.path + "/" + $0 }
            var files: [SharedFileDescriptor] = []
            for path in paths {
                try HostFile.write(path == paths[0] ? input ?? [] : [], to: path)
                files.append(
                    SharedFileDescriptor(
                        try GuestError.naming { () throws(SystemCallError) in
                            try FileSystem.open(path, forWriting: true)
                        }))
            }
            defer { withExtendedLifetime(files) {} }
            let cancel = try GuestError.naming { () throws(SystemCallError) in try EventNotifier() }
            var configuration = GuestConfiguration(
                kernel: try GuestKernel.find(kernel), deviceSocket: nil, command: command)
            configuration.secondsMax = secondsMax
            configure(&configuration)
            let streams = GuestStreams(
                input: input == nil ? nil : files[0].rawValue, output: files[1].rawValue, errors: files[2].rawValue,
                cancel: cancel.rawDescriptor)
            result.status = try Guest.run(configuration, streams: streams) {
                if cancelAfterReady { cancel.signal() }
            }
            result.output = String(decoding: try HostFile.read(paths[1]), as: UTF8.self)
            result.errors = String(decoding: try HostFile.read(paths[2]), as: UTF8.self)
        } catch {
            result.error = error
        }
        result.milliseconds = Int((MonotonicClock.now() - start) / 1_000_000)
        return result
    }
}
