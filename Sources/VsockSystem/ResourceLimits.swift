// SPDX-License-Identifier: Apache-2.0
//
// What this process may use and what it does use: getrlimit(2), proc(5). For start-up, statistics and leak tests.

import Glibc

/// Limits and use of this process.
public enum ResourceLimits {
    /// Processors that are online.
    public static var processorCount: Int { max(1, Int(sysconf(Int32(_SC_NPROCESSORS_ONLN)))) }

    /// Raises the soft limit of open files to the hard limit and returns it. A device needs one descriptor per
    /// connection, and the soft limit is 1024 on most systems because of select(2), which this package does not use.
    @discardableResult
    public static func raiseOpenFiles() throws(SystemCallError) -> UInt64 {
        var limit = rlimit()
        try checked("getrlimit") { getrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit) }
        if limit.rlim_cur < limit.rlim_max {
            limit.rlim_cur = limit.rlim_max
            try checked("setrlimit") { setrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit) }
        }
        return UInt64(limit.rlim_cur)
    }

    /// Descriptors that this process has open. Throws ENOENT without /proc.
    public static func openDescriptorCount() throws(SystemCallError) -> Int {
        // One of them is the descriptor that lists them.
        try FileSystem.names(in: "/proc/self/fd").count - 1
    }

    /// Bytes of memory that this process has resident. Throws ENOENT without /proc.
    public static func residentByteCount() throws(SystemCallError) -> UInt64 {
        // "size resident shared ...", in pages.
        let text = String(decoding: try FileSystem.read("/proc/self/statm", limit: 128), as: UTF8.self)
        let pages = text.split(separator: " ").dropFirst().first.flatMap { UInt64($0) } ?? 0
        return pages &* UInt64(clamping: sysconf(Int32(_SC_PAGESIZE)))
    }
}
