// SPDX-License-Identifier: Apache-2.0
//
// A list of system calls and the program in the kernel's classic BPF that holds a thread to it, seccomp(2). What is not
// on the list fails with EPERM: a daemon that lives on with an error is of more use than a dead one, and the call has no
// effect either way. A call that is allowed whatever its arguments costs almost nothing, since Linux 5.11 keeps a table
// of these.

import CVsockLinux
import Glibc

/// The system calls that a thread may make.
struct SystemCallFilter: Sendable {
    /// A condition on an argument, which is looked at as 32 bits, as the kernel does with those tested here.
    enum Condition: Sendable {
        /// Any arguments will do.
        case always
        /// All of these arguments are as they should be.
        case arguments([Argument])
        /// Fails with this error number, for callers that then try another call.
        case fails(Int32)

        static func argument(_ index: UInt32, mask: UInt32 = .max, equals value: UInt32) -> Self {
            .arguments([Argument(index, mask: mask, equals: value)])
        }
    }

    /// Argument `index`, of 0 to 5, has this value in the bits of the mask.
    struct Argument: Sendable {
        let index: UInt32
        let mask: UInt32
        let value: UInt32

        init(_ index: UInt32, mask: UInt32 = .max, equals value: UInt32) {
            self.index = index
            self.mask = mask
            self.value = value
        }
    }

    struct Rule: Sendable {
        let number: UInt32
        let condition: Condition

        init(_ number: Int32, _ condition: Condition = .always) {
            self.number = UInt32(bitPattern: number)
            self.condition = condition
        }
    }

    let rules: [Rule]

    /// Installs the filter. Throws ENOSYS or EINVAL without seccomp, EACCES without no_new_privs, ESRCH when a thread
    /// already has a filter of its own.
    func install(_ scope: Sandbox.Scope) throws(SystemCallError) {
        guard let architecture = Self.architecture else {
            throw SystemCallError(call: "seccomp", errno: Errno(rawValue: ENOSYS), detail: "not for this processor yet")
        }
        var program = self.program(architecture: architecture)
        guard let count = UInt16(exactly: program.count) else {
            throw SystemCallError(call: "seccomp", errno: Errno(rawValue: E2BIG))
        }
        let result = systemCall {
            Int(cvsock_install_filter(&program, count, scope == .process ? 1 : 0))
        }
        if result < 0 { throw SystemCallError(call: "seccomp", errno: Errno(negated: result)) }
        if result > 0 {
            throw SystemCallError(
                call: "seccomp", errno: Errno(rawValue: ESRCH), detail: "thread \(result) has another filter")
        }
    }

    // MARK: Program

    #if arch(x86_64)
    private static let architecture: UInt32? = 0xc000_003e
    #elseif arch(arm64)
    private static let architecture: UInt32? = 0xc000_00b7
    #else
    private static let architecture: UInt32? = nil
    #endif

    /// Offsets in struct seccomp_data.
    private enum Offset {
        static let number: UInt32 = 0
        static let architecture: UInt32 = 4
        /// The lower half of an argument; both architectures above are little-endian.
        static func argument(_ index: UInt32) -> UInt32 { 16 + 8 * index }
    }

    private static let allow = instruction(BPF_RET | BPF_K, 0x7fff_0000)
    private static func fail(_ errno: Int32) -> sock_filter {
        instruction(BPF_RET | BPF_K, 0x0005_0000 | UInt32(errno))
    }
    private static func load(_ offset: UInt32) -> sock_filter { instruction(BPF_LD | BPF_W | BPF_ABS, offset) }
    /// Goes on with the next instruction if the loaded word has this value, otherwise after `skipped` more.
    private static func unlessEqual(_ value: UInt32, skip skipped: UInt8) -> sock_filter {
        sock_filter(code: UInt16(BPF_JMP | BPF_JEQ | BPF_K), jt: 0, jf: skipped, k: value)
    }

    private static func skip(_ count: UInt32) -> sock_filter { instruction(BPF_JMP | BPF_JA, count) }

    private static func instruction(_ code: Int32, _ operand: UInt32) -> sock_filter {
        sock_filter(code: UInt16(code), jt: 0, jf: 0, k: operand)
    }

    /// Allows the call if all arguments are as they should be.
    private static func allowed(_ arguments: [Argument]) -> [sock_filter] {
        // Another rule may be for the same call.
        var body = [allow, load(Offset.number)]
        for argument in arguments.reversed() {
            let rest = UInt8(body.count - 1)
            body =
                [
                    load(Offset.argument(argument.index)), instruction(BPF_ALU | BPF_AND | BPF_K, argument.mask),
                    unlessEqual(argument.value, skip: rest),
                ] + body
        }
        return body
    }

    func program(architecture: UInt32) -> [sock_filter] {
        let refusal = Self.fail(EPERM)
        // Another architecture's numbers mean other calls.
        var program = [
            Self.load(Offset.architecture), Self.unlessEqual(architecture, skip: 1), Self.skip(1), refusal,
            Self.load(Offset.number),
        ]
        for rule in rules {
            let body: [sock_filter] =
                switch rule.condition {
                case .always: [Self.allow]
                case .fails(let errno): [Self.fail(errno)]
                case .arguments(let arguments):
                    Self.allowed(arguments)
                }
            program.append(Self.unlessEqual(rule.number, skip: UInt8(body.count)))
            program += body
        }
        return program + [refusal]
    }
}
