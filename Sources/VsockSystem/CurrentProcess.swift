// SPDX-License-Identifier: Apache-2.0
//
// What this process was started with: its program, its directory, its environment.

import CVsockLinux
import Glibc

/// The running program.
public enum CurrentProcess {
    /// The path of its executable file.
    public static var executablePath: String {
        withUnsafeTemporaryAllocation(byteCount: Int(PATH_MAX), alignment: 1) { buffer in
            guard let base = buffer.baseAddress else { return CommandLine.arguments[0] }
            let count = readlink("/proc/self/exe", base.assumingMemoryBound(to: CChar.self), buffer.count)
            guard count > 0 else { return CommandLine.arguments[0] }
            return String(decoding: buffer[..<count], as: UTF8.self)
        }
    }

    /// The current directory, or "/" when it is gone.
    public static var currentDirectory: String {
        guard let path = getcwd(nil, 0) else { return "/" }
        defer { free(path) }
        return String(cString: path)
    }

    /// The environment, as NAME=value.
    public static var environment: [String] {
        var variables: [String] = []
        guard var next = cvsock_environment() else { return [] }
        while let text = next.pointee {
            variables.append(String(cString: text))
            next += 1
        }
        return variables
    }

    /// The value of an environment variable; nil when it is not set.
    public static func environment(_ name: String) -> String? { getenv(name).map { String(cString: $0) } }

    /// getpid(2)
    public static var identifier: Int32 { getpid() }
}
