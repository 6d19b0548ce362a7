// SPDX-License-Identifier: Apache-2.0
//
// What a process has used, by its processor clock and proc(5): for measurements, never on the data path.

import Glibc

/// Processor time, memory and threads of a process at one moment.
public struct ProcessUsage: Sendable, Equatable {
    /// User and system time of all its threads so far, ended ones included: clock_getcpuclockid(3), to the nanosecond,
    /// where proc(5) counts ticks of 10 ms.
    public let processorNanoseconds: UInt64
    /// Bytes of memory that it has resident.
    public let residentByteCount: UInt64
    /// Threads that it has.
    public let threadCount: Int

    /// Asks the kernel. Throws ENOENT or ESRCH if there is no such process, EINVAL if /proc does not say.
    public init(of processID: Int32) throws(SystemCallError) {
        let path = "/proc/\(processID)/stat"
        let text = String(decoding: try FileSystem.read(path, limit: 4096), as: UTF8.self)
        let pageByteCount = UInt64(clamping: sysconf(Int32(_SC_PAGESIZE)))
        var clock = clockid_t()
        try checkedCode("clock_getcpuclockid", path: path) { clock_getcpuclockid(processID, &clock) }
        var time = timespec()
        try checked("clock_gettime", path: path) { clock_gettime(clock, &time) }
        guard
            let usage = Self(
                processorNanoseconds: time.nanoseconds, statLine: text, pageByteCount: pageByteCount)
        else {
            throw SystemCallError(call: "read", errno: .invalidArgument, path: path)
        }
        self = usage
    }

    /// With the line of /proc/PID/stat.
    init?(processorNanoseconds: UInt64, statLine: String, pageByteCount: UInt64) {
        // The second field is the command's name, in parentheses, which may hold anything, parentheses included.
        guard let end = statLine.lastIndex(of: ")") else { return nil }
        // From the third field on: num_threads is field 20, rss 24.
        let fields = statLine[statLine.index(after: end)...].split { $0 == " " || $0 == "\n" }
        guard fields.count > 21, let threads = Int(fields[17]), let pages = UInt64(fields[21]) else { return nil }
        self.processorNanoseconds = processorNanoseconds
        residentByteCount = pages &* pageByteCount
        threadCount = threads
    }
}
