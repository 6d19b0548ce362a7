// SPDX-License-Identifier: Apache-2.0
//
// The one place that turns a system call's -1 into an error number and repeats interrupted calls. errno is read in the
// statement after the call, inside a function that is not inlined, so that nothing can come between the two.

import Glibc

/// A system call that failed, what it was applied to, and why. Its description is one line for a user:
/// `bind /run/vm.sock: Permission denied`.
public struct SystemCallError: Error, Sendable, CustomStringConvertible {
    /// The name of the system call.
    public let call: StaticString
    /// The reason that the kernel gave, or the one it would give where the call was not made.
    public let errno: Errno
    /// The file, socket path or address that the call was applied to.
    public let path: String?
    /// What the error number alone does not tell, with the remedy where there is one.
    public let detail: String?

    /// Describes a failure of `call`.
    public init(call: StaticString, errno: Errno, path: String? = nil, detail: String? = nil) {
        self.call = call
        self.errno = errno
        self.path = path
        self.detail = detail
    }

    public var description: String {
        var text = "\(call)"
        if let path { text += " \(path)" }
        text += ": \(errno)"
        if let detail { text += " (\(detail))" }
        return text
    }
}

/// Makes a system call, again while a signal interrupts it. Returns its result, or the negated error number.
@inline(never)
func systemCall(_ body: () -> Int) -> Int {
    while true {
        let result = body()
        if result >= 0 { return result }
        let code = errno
        if code != EINTR { return -Int(code) }
    }
}

/// Makes a system call once: for calls with a timeout, whose caller computes the time that is left after a signal.
@inline(never)
func systemCallOnce(_ body: () -> Int) -> Int {
    let result = body()
    if result >= 0 { return result }
    return -Int(errno)
}

/// Makes a system call, again while a signal interrupts it, and throws what it failed with.
@discardableResult
func checked(_ call: StaticString, path: String? = nil, _ body: () -> Int32) throws(SystemCallError) -> Int32 {
    let result = systemCall { Int(body()) }
    if result < 0 { throw SystemCallError(call: call, errno: Errno(negated: result), path: path) }
    return Int32(truncatingIfNeeded: result)
}

/// For the functions of POSIX that return the error number instead of setting errno.
func checkedCode(_ call: StaticString, path: String? = nil, _ body: () -> Int32) throws(SystemCallError) {
    let code = body()
    if code != 0 { throw SystemCallError(call: call, errno: Errno(rawValue: code), path: path) }
}

extension Errno {
    /// From the result of ``systemCall(_:)``.
    init(negated result: Int) {
        self.init(rawValue: Int32(truncatingIfNeeded: -result))
    }
}
