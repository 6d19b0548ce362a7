// SPDX-License-Identifier: Apache-2.0
// Programs of the host that booting a guest needs, each in a process group of its own so that its helpers end with it.

import VsockSystem

/// Programs of the host, by name and by path.
package enum HostProgram {
    /// Looks a program up in PATH, then where system programs are.
    package static func find(_ name: String) -> String? {
        let path = CurrentProcess.environment("PATH") ?? ""
        let directories = path.split(separator: ":").map(String.init).filter { $0.hasPrefix("/") }
        return find(name, in: directories + ["/usr/bin", "/bin", "/usr/sbin", "/sbin", "/usr/local/bin"])
    }

    /// The first of `directories` that holds an executable `name`, as a path.
    package static func find(_ name: String, in directories: [String]) -> String? {
        directories.lazy.map { $0 + "/" + name }.first {
            FileSystem.permits(.execute, at: $0) && FileSystem.kind(of: $0) != .directory
        }
    }

    /// Starts a program. Its standard input is empty.
    ///
    /// - Parameters:
    ///   - arguments: the program's path, then its arguments.
    ///   - output: its standard output; nil for none.
    ///   - errors: its standard error; nil for none.
    ///   - furtherDescriptors: what it finds as 3, 4 and so on.
    ///   - environment: variables besides ours, as NAME=value.
    package static func start(
        _ arguments: [String], output: Int32?, errors: Int32?, furtherDescriptors: [Int32] = [],
        environment: [String] = []
    ) throws(GuestError) -> ChildProcess {
        let names = environment.map { $0.prefix { $0 != "=" } + "=" }
        let inherited = CurrentProcess.environment.filter { variable in !names.contains { variable.hasPrefix($0) } }
        return try GuestError.naming { () throws(SystemCallError) in
            let null = try FileSystem.open("/dev/null", forWriting: true)
            return try ChildProcess.spawn(
                arguments[0], arguments: Array(arguments.dropFirst()), environment: inherited + environment,
                standardInput: null.rawValue, standardOutput: output ?? null.rawValue,
                standardError: errors ?? null.rawValue, furtherDescriptors: furtherDescriptors, newProcessGroup: true)
        }
    }

    /// Runs a program to its end and returns what it wrote to standard output.
    package static func output(of arguments: [String]) throws(GuestError) -> [UInt8] {
        let pipe = try GuestError.naming { () throws(SystemCallError) in
            try DescriptorIO.makePipe(nonBlocking: false)
        }
        let reader = pipe.readEnd
        let writer = pipe.writeEnd
        let child = try start(arguments, output: writer.rawValue, errors: nil)
        _ = consume writer
        defer { child.end() }
        var bytes: [UInt8] = []
        while case .bytes(let chunk) = Chunk(reading: reader.rawValue, limit: 1 << 16) { bytes += chunk }
        return bytes
    }
}

extension ChildProcess {
    private static let endNanosecondsMax: UInt64 = 10_000_000_000

    /// Ends it with everything in its group, and waits for it, but not for one that the kernel does not let die.
    package func end() {
        try? kill(Signal.kill)
        _ = try? wait(timeoutNanoseconds: Self.endNanosecondsMax)
    }
}
