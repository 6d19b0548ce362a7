// SPDX-License-Identifier: Apache-2.0
//
// What a process has used, by proc(5): for measurements, never on the data path.

import Glibc

/// Processor time, memory and threads of a process at one moment.
public struct ProcessUsage: Sendable, Equatable {
    /// User and system time of all its threads so far, ended ones included; in ticks of 10 ms on most systems.
    public let processorNanoseconds: UInt64
    /// Bytes of memory that it has resident.
    public let residentByteCount: UInt64
    /// Threads that it has.
    public let threadCount: Int

    /// Asks the kernel. Throws ENOENT if there is no such process, EINVAL if /proc does not say.
    public init(of processID: Int32) throws(SystemCallError) {
        let path = "/proc/\(processID)/stat"
        let text = String(decoding: try FileSystem.read(path, limit: 4096), as: UTF8.self)
        let ticksPerSecond = UInt64(clamping: sysconf(Int32(_SC_CLK_TCK)))
        let pageByteCount = UInt64(clamping: sysconf(Int32(_SC_PAGESIZE)))
        guard let usage = Self(statLine: text, ticksPerSecond: ticksPerSecond, pageByteCount: pageByteCount) else {
            throw SystemCallError(call: "read", errno: .invalidArgument, path: path)
        }
        self = usage
    }

    /// From the line of /proc/PID/stat.
    init?(statLine: String, ticksPerSecond: UInt64, pageByteCount: UInt64) {
        // The second field is the command's name, in parentheses, which may hold anything, parentheses included.
        guard ticksPerSecond > 0, let end = statLine.lastIndex(of: ")") else { return nil }
        // From the third field on: utime and stime are fields 14 and 15, num_threads 20, rss 24.
        let fields = statLine[statLine.index(after: end)...].split { $0 == " " || $0 == "\n" }
        guard fields.count > 21, let user = UInt64(fields[11]), let system = UInt64(fields[12]),
            let threads = Int(fields[17]), let pages = UInt64(fields[21])
        else { return nil }
        let (ticks, overflow) = user.addingReportingOverflow(system)
        guard !overflow, ticks <= UInt64.max / 1_000_000_000 else { return nil }
        processorNanoseconds = ticks * 1_000_000_000 / ticksPerSecond
        residentByteCount = pages &* pageByteCount
        threadCount = threads
    }
}
