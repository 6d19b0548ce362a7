// SPDX-License-Identifier: Apache-2.0
//
// Child processes, posix_spawn(3). A child starts with no signal blocked and none ignored, whatever this process has
// set, and with no descriptor of ours besides those it is given: those of this package close on exec, and what else the
// process has open or has inherited is closed for the child (glibc 2.34 and later).

import CVsockLinux
import Glibc
import Synchronization

/// A child that this process started. Waiting for it frees its number; until then a signal cannot hit a stranger.
public final class ChildProcess: Sendable {
    /// How a child ended.
    public enum ExitStatus: Hashable, Sendable {
        /// It called exit with this status, 0 to 255.
        case exited(Int32)
        /// A signal ended it.
        case signalled(Int32)

        /// The number that a shell gives: the status, or 128 plus the signal.
        public var shellStatus: Int32 {
            switch self {
            case .exited(let status): status
            case .signalled(let signal): 128 + signal
            }
        }

        /// From the status word of wait(2): seven bits of signal, then eight of exit status.
        init(waitStatus: Int32) {
            let signal = waitStatus & 0x7f
            self = signal == 0 ? .exited((waitStatus >> 8) & 0xff) : .signalled(signal)
        }
    }

    /// The process number, and the group's if it leads one.
    public let processID: pid_t

    private let leadsGroup: Bool
    private let status = Mutex<ExitStatus?>(nil)

    private init(processID: pid_t, leadsGroup: Bool) {
        self.processID = processID
        self.leadsGroup = leadsGroup
    }

    /// Starts `path` (looked for in PATH if it has no slash) with `arguments` after its own name. `environment` is
    /// `NAME=value` strings, nil for ours. Standard descriptors are those of this process if nil. The child finds
    /// `furtherDescriptors` as 3, 4 and so on. All descriptors stay the caller's.
    ///
    /// Throws ENOENT, EACCES, ENOEXEC, EAGAIN.
    public static func spawn(
        _ path: String, arguments: [String] = [], environment: [String]? = nil,
        standardInput: Int32? = nil, standardOutput: Int32? = nil, standardError: Int32? = nil,
        furtherDescriptors: [Int32] = [], newProcessGroup: Bool = false
    ) throws(SystemCallError) -> ChildProcess {
        var actions = posix_spawn_file_actions_t()
        try checkedCode("posix_spawn", path: path) { posix_spawn_file_actions_init(&actions) }
        defer { posix_spawn_file_actions_destroy(&actions) }
        let sources = [standardInput, standardOutput, standardError] + furtherDescriptors
        let firstFree = Int32(clamping: sources.count)
        var copies: [SharedFileDescriptor] = []
        defer { copies.removeAll() }
        for (target, source) in sources.enumerated() {
            guard var source else { continue }
            // The actions run in order: a source that is itself one of the child's numbers could be replaced before it
            // is copied, so copy it out of the way.
            if source < firstFree, source != target {
                let original = source
                source = try checked("fcntl") { fcntl(original, F_DUPFD_CLOEXEC, firstFree) }
                copies.append(SharedFileDescriptor(OwnedFileDescriptor(owning: source)))
            }
            let from = source
            try checkedCode("posix_spawn", path: path) {
                posix_spawn_file_actions_adddup2(&actions, from, Int32(target))
            }
        }
        try checkedCode("posix_spawn", path: path) { cvsock_spawn_close_from(&actions, firstFree) }
        var attributes = posix_spawnattr_t()
        try checkedCode("posix_spawn", path: path) { posix_spawnattr_init(&attributes) }
        defer { posix_spawnattr_destroy(&attributes) }
        try checkedCode("posix_spawn", path: path) { configure(&attributes, newProcessGroup: newProcessGroup) }
        let processID = try start(path, arguments, environment, &actions, &attributes)
        return ChildProcess(processID: processID, leadsGroup: newProcessGroup)
    }

    /// Sends a signal, to the whole group if the child leads one. Throws ESRCH if it was waited for already.
    public func kill(_ signal: Int32) throws(SystemCallError) {
        // Under the lock, so that the number is not freed and given to another process meanwhile.
        let result = status.withLock { status in
            if status != nil { return -Int(ESRCH) }
            return systemCall { Int(Glibc.kill(leadsGroup ? -processID : processID, signal)) }
        }
        if result < 0 { throw SystemCallError(call: "kill", errno: Errno(negated: result)) }
    }

    /// Waits until the child has ended. Any number of threads may wait.
    @discardableResult
    public func wait() throws(SystemCallError) -> ExitStatus {
        while true {
            if let ended = try reap() { return ended }
            let child = id_t(bitPattern: processID)
            // WNOWAIT leaves the reaping to the lock, so that kill() is not kept waiting.
            let result = systemCall {
                var information = siginfo_t()
                return Int(waitid(P_PID, child, &information, WEXITED | Int32(WNOWAIT)))
            }
            // ECHILD: another thread was faster; reap() knows.
            if result < 0, result != -Int(ECHILD) {
                throw SystemCallError(call: "waitid", errno: Errno(negated: result))
            }
        }
    }

    /// Whether the child has ended, after waiting for it at most so long. Unlike the other waits this one leaves its
    /// number taken, so that ``kill(_:)`` still reaches what is left of its group. Throws ECHILD if someone else has
    /// waited for it; ENOSYS before Linux 5.3, but not for a time of 0.
    public func hasEnded(withinNanoseconds timeout: UInt64 = 0) throws(SystemCallError) -> Bool {
        if try isEnded() { return true }
        if timeout == 0 { return false }
        let child = processID
        let handle = OwnedFileDescriptor(owning: try checked("pidfd_open") { cvsock_pidfd_open(child) })
        return try !DescriptorIO.waitUntilReady(handle.rawValue, for: .readable, timeoutNanoseconds: timeout).isEmpty
    }

    private func isEnded() throws(SystemCallError) -> Bool {
        let child = id_t(bitPattern: processID)
        // Under the lock, so that the number is not freed meanwhile.
        let result = status.withLock { status in
            if status != nil { return 1 }
            var signal: Int32 = 0
            let result = systemCall {
                var information = siginfo_t()
                let result = waitid(P_PID, child, &information, WEXITED | WNOHANG | Int32(WNOWAIT))
                // Nothing to report leaves the structure as it was.
                signal = information.si_signo
                return Int(result)
            }
            return result < 0 ? result : signal == SIGCHLD ? 1 : 0
        }
        if result < 0 { throw SystemCallError(call: "waitid", errno: Errno(negated: result)) }
        return result == 1
    }

    /// Waits at most so long; nil if the child has not ended by then. Throws ENOSYS before Linux 5.3.
    public func wait(timeoutNanoseconds: UInt64) throws(SystemCallError) -> ExitStatus? {
        guard try hasEnded(withinNanoseconds: timeoutNanoseconds) else { return nil }
        return try reap()
    }

    /// The status, if the child has ended. Throws ECHILD if someone else has waited for it.
    private func reap() throws(SystemCallError) -> ExitStatus? {
        let result = status.withLock { status -> Result<ExitStatus?, Errno> in
            if let status { return .success(status) }
            var word: Int32 = 0
            let reaped = systemCall { Int(waitpid(processID, &word, WNOHANG)) }
            if reaped < 0 { return .failure(Errno(negated: reaped)) }
            if reaped == 0 { return .success(nil) }
            status = ExitStatus(waitStatus: word)
            return .success(status)
        }
        switch result {
        case .success(let status): return status
        case .failure(let errno): throw SystemCallError(call: "waitpid", errno: errno)
        }
    }

    private static func configure(_ attributes: inout posix_spawnattr_t, newProcessGroup: Bool) -> Int32 {
        var none = sigset_t()
        var all = sigset_t()
        sigemptyset(&none)
        sigfillset(&all)
        var flags = Int32(POSIX_SPAWN_SETSIGMASK) | Int32(POSIX_SPAWN_SETSIGDEF)
        if newProcessGroup { flags |= Int32(POSIX_SPAWN_SETPGROUP) }
        for code in [
            posix_spawnattr_setsigmask(&attributes, &none), posix_spawnattr_setsigdefault(&attributes, &all),
            posix_spawnattr_setpgroup(&attributes, 0), posix_spawnattr_setflags(&attributes, Int16(flags)),
        ] where code != 0 { return code }
        return 0
    }

    private static func start(
        _ path: String, _ arguments: [String], _ environment: [String]?,
        _ actions: inout posix_spawn_file_actions_t, _ attributes: inout posix_spawnattr_t
    ) throws(SystemCallError) -> pid_t {
        let argumentList = CStringList([path] + arguments)
        let environmentList = environment.map { CStringList($0) }
        var processID: pid_t = 0
        let code = posix_spawnp(
            &processID, path, &actions, &attributes, argumentList.base, environmentList?.base ?? cvsock_environment())
        if code != 0 { throw SystemCallError(call: "posix_spawn", errno: Errno(rawValue: code), path: path) }
        withExtendedLifetime((argumentList, environmentList)) {}
        return processID
    }
}

/// The null-terminated list of C strings that exec wants.
private final class CStringList {
    let base: UnsafeMutablePointer<UnsafeMutablePointer<CChar>?>
    private let count: Int

    init(_ strings: [String]) {
        count = strings.count
        base = .allocate(capacity: count + 1)
        base.initialize(repeating: nil, count: count + 1)
        for (index, string) in strings.enumerated() { base[index] = strdup(string) }
    }

    deinit {
        for index in 0..<count { free(base[index]) }
        base.deallocate()
    }
}
