// SPDX-License-Identifier: Apache-2.0
//
// What a thread can still do once it has given its rights up. Each test uses up a thread of its own: rights do not come
// back.

import CVsockLinux
import Glibc
import Synchronization
import Testing

@testable import VsockSystem

@Suite("Sandbox")
struct SandboxTests {
    /// The running kernel has all three measures.
    static let isComplete: Bool =
        (try? sandboxed(directory: "/tmp") { $0.active.count == Sandbox.Measure.allCases.count }) == true

    private final class Outcome<Value: Sendable>: Sendable {
        let value = Mutex<Value?>(nil)
    }

    /// Runs `body` in a thread with the sandbox on, its sockets in `directory`.
    private static func sandboxed<Value: Sendable>(
        directory: String, _ body: @escaping @Sendable (Sandbox.Report) -> Value
    ) throws -> Value {
        let outcome = Outcome<Value>()
        let thread = try WorkerThread(name: "sandbox") {
            let value = body(Sandbox.enter(socketDirectories: [directory], scope: .thread))
            outcome.value.withLock { $0 = value }
        }
        thread.join()
        return try #require(outcome.value.withLock { $0 })
    }

    @Test("sockets in the directory live as ever: made, connected to, replaced when stale, removed")
    func sockets() throws {
        let directory = try TemporaryDirectory()
        let path = directory.path + "/a"
        let failure: String? = try Self.sandboxed(directory: directory.path) { _ in
            do {
                let address = try UnixAddress(path)
                for type in [UnixSocketType.stream, .seqpacket] {
                    let listener = try UnixListener(address, type: type, mode: 0o666)
                    let client = try UnixSocket.connect(to: address, type: type, nonBlocking: true)
                    guard let server = try listener.accept() else { return "nothing to accept" }
                    let sent = [UInt8](repeating: 1, count: 10).withUnsafeBytes {
                        DescriptorIO.send(client.rawValue, from: $0)
                    }
                    var buffer = [UInt8](repeating: 0, count: 10)
                    let received = buffer.withUnsafeMutableBytes { DescriptorIO.read(server.rawValue, into: $0) }
                    guard sent == .count(10), received == .count(10) else { return "\(sent), \(received)" }
                }
                return FileSystem.exists(path) ? "the file stays" : nil
            } catch {
                return "\(error)"
            }
        }
        #expect(failure == nil)
    }

    @Test("threads, memory and events are at hand")
    func working() throws {
        let failure: String? = try Self.sandboxed(directory: "/nowhere") { _ in
            do {
                let event = try EventNotifier()
                let poller = try Poller()
                _ = try SharedMemory(name: "sandbox", byteCount: 1 << 20)
                // What a thread that follows its peer does.
                try CurrentThread.setAllowedProcessors(try CurrentThread.allowedProcessors())
                try CurrentThread.setSchedulingPolicy(.batch)
                guard CurrentThread.schedulingPolicy == .batch else { return "another policy" }
                try CurrentThread.setSchedulingPolicy(.other)
                let thread = try WorkerThread(name: "inner") { event.signal() }
                thread.join()
                let ready = try DescriptorIO.waitUntilReady(
                    event.rawDescriptor, for: .readable, timeoutNanoseconds: 10_000_000_000)
                withExtendedLifetime(poller) {}
                return ready.isEmpty ? "the inner thread did not run" : nil
            } catch {
                return "\(error)"
            }
        }
        #expect(failure == nil)
    }

    @Test(
        "no file is opened, executed or made, and no process, network socket or executable page",
        .enabled(if: isComplete, "this kernel has no Landlock, or no seccomp"))
    func refused() throws {
        let directory = try TemporaryDirectory()
        let errors: [String: SystemCallError?] = try Self.sandboxed(directory: directory.path) { _ in
            [
                "read": failure { () throws(SystemCallError) in _ = try FileSystem.open("/etc/passwd") },
                "write": failure { () throws(SystemCallError) in
                    try FileSystem.write([1], to: directory.path + "/file")
                },
                "execute": failure { () throws(SystemCallError) in _ = try ChildProcess.spawn("/bin/true") },
                "fork": failure { () throws(SystemCallError) in _ = try checked("fork") { fork() } },
                "mount": failure { () throws(SystemCallError) in
                    try checked("mount") { mount("none", "/tmp", "tmpfs", 0, nil) }
                },
                "network": failure { () throws(SystemCallError) in
                    try checked("socket") { cvsock_socket(AF_INET, Int32(SOCK_STREAM.rawValue), 1) }
                },
                "executable memory": failure { () throws(SystemCallError) in
                    try checked("mmap") {
                        let base = mmap(nil, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
                        return base == MAP_FAILED ? -1 : 0
                    }
                },
            ]
        }
        for (what, error) in errors {
            #expect(error?.errno == Errno(rawValue: EPERM), "\(what): \(error?.description ?? "allowed")")
        }
    }

    @Test(
        "a socket outside of the directories is refused by Landlock, with everything else allowed",
        .enabled(if: isComplete, "this kernel has no Landlock, or no seccomp"))
    func outside() throws {
        let inside = try TemporaryDirectory()
        let outside = try TemporaryDirectory()
        let error: SystemCallError? = try Self.sandboxed(directory: inside.path) { _ in
            failure { () throws(SystemCallError) in
                _ = try UnixListener(try UnixAddress(outside.path + "/a"), type: .stream)
            }
        }
        #expect(error?.errno == .permissionDenied)
        #expect(try FileSystem.names(in: outside.path).isEmpty)
    }

    @Test("the report names what is active, and for the rest the reason")
    func report() throws {
        let text = try Self.sandboxed(directory: "/tmp") { "\($0)" }
        for measure in Sandbox.Measure.allCases { #expect(text.contains(measure.rawValue)) }
        #expect(!text.contains("\n"))
    }
}

@Suite("System call filter")
struct SystemCallFilterTests {
    private static let architecture: UInt32 = 0xc000_003e

    /// What the program decides, by an interpreter of the few instructions it has.
    private func decision(
        _ rules: [SystemCallFilter.Rule], number: UInt32, arguments: [UInt32] = [], architecture: UInt32 = architecture
    ) throws -> UInt32 {
        let program = SystemCallFilter(rules: rules).program(architecture: Self.architecture)
        var accumulator: UInt32 = 0
        var index = 0
        while true {
            try #require(program.indices.contains(index), "the program runs past its end")
            let instruction = program[index]
            index += 1
            switch Int32(instruction.code) {
            case BPF_LD | BPF_W | BPF_ABS:
                switch instruction.k {
                case 0: accumulator = number
                case 4: accumulator = architecture
                default:
                    let position = Int(instruction.k) - 16
                    try #require(position >= 0 && position % 8 == 0)
                    accumulator = arguments.indices.contains(position / 8) ? arguments[position / 8] : 0
                }
            case BPF_ALU | BPF_AND | BPF_K: accumulator &= instruction.k
            case BPF_JMP | BPF_JA: index += Int(instruction.k)
            case BPF_JMP | BPF_JEQ | BPF_K:
                index += Int(accumulator == instruction.k ? instruction.jt : instruction.jf)
            case BPF_RET | BPF_K: return instruction.k
            default: Issue.record("instruction \(instruction.code)")
            }
        }
    }

    private let allowed: UInt32 = 0x7fff_0000
    private func failed(_ errno: Int32) -> UInt32 { 0x0005_0000 | UInt32(errno) }

    @Test("a call on the list is allowed, any other fails with EPERM")
    func list() throws {
        let rules = [SystemCallFilter.Rule(3), SystemCallFilter.Rule(7)]
        for number in UInt32(0)..<12 {
            #expect(try decision(rules, number: number) == ([3, 7].contains(number) ? allowed : failed(EPERM)))
        }
        #expect(try decision([], number: 3) == failed(EPERM))
    }

    @Test("another architecture's calls fail, whatever their number")
    func architecture() throws {
        #expect(try decision([.init(3)], number: 3, architecture: 0x4000_0003) == failed(EPERM))
    }

    @Test("conditions on arguments, several for a call, and an error of its own")
    func conditions() throws {
        let rules = [
            SystemCallFilter.Rule(5, .argument(1, equals: 100)),
            SystemCallFilter.Rule(5, .argument(1, equals: 200)),
            SystemCallFilter.Rule(6, .argument(2, mask: 4, equals: 0)),
            SystemCallFilter.Rule(
                7,
                .arguments([
                    SystemCallFilter.Argument(0, equals: 1), SystemCallFilter.Argument(2, mask: 6, equals: 4),
                ])),
            SystemCallFilter.Rule(7, .argument(1, equals: 9)),
            SystemCallFilter.Rule(8, .fails(ENOSYS)),
            SystemCallFilter.Rule(9),
        ]
        #expect(try decision(rules, number: 5, arguments: [0, 100]) == allowed)
        #expect(try decision(rules, number: 5, arguments: [0, 200]) == allowed)
        #expect(try decision(rules, number: 5, arguments: [0, 300]) == failed(EPERM))
        #expect(try decision(rules, number: 5, arguments: [100, 0]) == failed(EPERM))
        #expect(try decision(rules, number: 6, arguments: [0, 0, 3]) == allowed)
        #expect(try decision(rules, number: 6, arguments: [0, 0, 7]) == failed(EPERM))
        #expect(try decision(rules, number: 7, arguments: [1, 0, 5]) == allowed)
        #expect(try decision(rules, number: 7, arguments: [2, 0, 5]) == failed(EPERM))
        #expect(try decision(rules, number: 7, arguments: [1, 0, 6]) == failed(EPERM))
        #expect(try decision(rules, number: 7, arguments: [2, 9, 6]) == allowed)
        #expect(try decision(rules, number: 8) == failed(ENOSYS))
        #expect(try decision(rules, number: 9) == allowed)
    }

    @Test("the device's list fits into a program of the kernel, and has none of the calls that start or read anything")
    func device() throws {
        let rules = SystemCallFilter.device.rules
        #expect(SystemCallFilter.device.program(architecture: Self.architecture).count <= 4096)
        for number in [
            SYS_execve, SYS_execveat, SYS_openat, SYS_ptrace, SYS_mount, SYS_kill, SYS_io_uring_setup, SYS_bpf,
            SYS_process_vm_writev, SYS_unshare, SYS_setns, SYS_pidfd_getfd, SYS_userfaultfd,
        ] {
            #expect(!rules.contains { $0.number == UInt32(number) })
            #expect(try decision(rules, number: UInt32(number)) == failed(EPERM))
        }
    }

    @Test("a device binds its own threads to processors, no others")
    func affinity() throws {
        let rules = SystemCallFilter.device.rules
        let number = UInt32(SYS_sched_setaffinity)
        #expect(try decision(rules, number: number, arguments: [0]) == allowed)
        #expect(try decision(rules, number: number, arguments: [1]) == failed(EPERM))
        #expect(try decision(rules, number: number, arguments: [.max]) == failed(EPERM))
    }

    @Test("a device changes the policy of its own threads, and to none that puts others behind")
    func policy() throws {
        let rules = SystemCallFilter.device.rules
        let number = UInt32(SYS_sched_setscheduler)
        // SCHED_OTHER, SCHED_FIFO, SCHED_RR, SCHED_BATCH; SCHED_IDLE and more; with SCHED_RESET_ON_FORK.
        for policy in Array(0..<8) + [0x4000_0000, UInt32.max] {
            #expect(
                try decision(rules, number: number, arguments: [0, policy])
                    == ([0, 3].contains(policy) ? allowed : failed(EPERM)))
            #expect(try decision(rules, number: number, arguments: [1, policy]) == failed(EPERM))
        }
    }
}
