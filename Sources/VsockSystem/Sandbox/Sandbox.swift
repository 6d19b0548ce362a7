// SPDX-License-Identifier: Apache-2.0
//
// Rights that a daemon gives up once it has what it needs: no_new_privs (prctl(2)), Landlock (landlock(7)) for files and
// the network, and a filter of system calls (seccomp(2)). They hold for good. Each is taken where the running kernel has
// it, and what could not be taken is said.

import CVsockLinux
import Glibc

/// Gives rights up.
public enum Sandbox {
    /// A way to give rights up.
    public enum Measure: String, Sendable, CaseIterable {
        /// Programs that are executed gain no rights.
        case noNewPrivileges = "no_new_privs"
        /// Files can be neither opened nor changed, the network cannot be reached.
        case landlock = "Landlock"
        /// Only the system calls of a running device are left.
        case systemCallFilter = "seccomp"
    }

    /// What became of the measures.
    public struct Report: Sendable, CustomStringConvertible {
        /// What is in force.
        public fileprivate(set) var active: [Measure] = []
        /// What is not, and why.
        public fileprivate(set) var missing: [(measure: Measure, error: SystemCallError)] = []

        /// One line: `no_new_privs, Landlock and seccomp are active`.
        public var description: String {
            let names = active.map(\.rawValue)
            let list =
                switch names.count {
                case 0: "nothing is active"
                case 1: "\(names[0]) is active"
                default: names.dropLast().joined(separator: ", ") + " and \(names[names.count - 1]) are active"
                }
            return ([list] + missing.map { "\($0.measure.rawValue) is not (\($0.error))" }).joined(separator: "; ")
        }
    }

    /// Whose rights are given up. Threads that are started afterwards inherit the rest in any case.
    public enum Scope: Sendable {
        /// All threads, as far as system calls go; files and the network only for the calling thread and those that it
        /// starts. So call it before others are started.
        case process
        /// The calling thread.
        case thread
    }

    /// Takes all measures that the kernel has. Sockets can be created and removed below `socketDirectories`, and nothing
    /// else can be done to files by name; descriptors that are open stay as they are.
    public static func enter(socketDirectories: [String], scope: Scope = .process) -> Report {
        var report = Report()
        // Its file is read at the first use.
        tzset()
        func take(_ measure: Measure, _ step: () throws(SystemCallError) -> Void) {
            do throws(SystemCallError) {
                try step()
                report.active.append(measure)
            } catch {
                report.missing.append((measure, error))
            }
        }
        // The other two demand it of a process without CAP_SYS_ADMIN.
        take(.noNewPrivileges) { () throws(SystemCallError) in
            try checked("prctl") { cvsock_set_no_new_privileges() }
        }
        take(.landlock) { () throws(SystemCallError) in
            try LandlockRuleset.restrictThread(socketDirectories: socketDirectories)
        }
        take(.systemCallFilter) { () throws(SystemCallError) in
            try SystemCallFilter.device.install(scope)
        }
        return report
    }
}
