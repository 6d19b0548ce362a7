// SPDX-License-Identifier: Apache-2.0
//
// One operating-system thread per event loop, pthreads(7). The loops of this package block in epoll, which threads of
// Swift concurrency must not.

import CVsockLinux
import Glibc
import Synchronization

/// A thread that runs one closure. Signals go to other threads: all but those of its own faults are blocked, whichever
/// thread starts it. If it is never joined it goes on by itself and its resources are freed at its end.
public final class WorkerThread: Sendable {
    private struct Start: Sendable {
        let name: String
        let body: @Sendable () -> Void
    }

    private final class StartBox: Sendable {
        let start: Start
        init(_ start: Start) { self.start = start }
    }

    /// nil once joined.
    private let thread: Mutex<pthread_t?>

    /// Starts the thread. The name (15 bytes are kept) shows in ps and debuggers. Throws EAGAIN if the system has no
    /// thread left.
    public init(name: String, _ body: @escaping @Sendable () -> Void) throws(SystemCallError) {
        let box = Unmanaged.passRetained(StartBox(Start(name: name, body: body)))
        var created = pthread_t()
        var blocked = Self.blockedSignals()
        var previous = sigset_t()
        pthread_sigmask(SIG_SETMASK, &blocked, &previous)
        defer { pthread_sigmask(SIG_SETMASK, &previous, nil) }
        let code = pthread_create(
            &created, nil,
            { argument in
                guard let argument else { return nil }
                let start = Unmanaged<StartBox>.fromOpaque(argument).takeRetainedValue().start
                _ = cvsock_set_thread_name(start.name)
                start.body()
                return nil
            }, box.toOpaque())
        if code != 0 {
            box.release()
            throw SystemCallError(call: "pthread_create", errno: Errno(rawValue: code))
        }
        thread = Mutex(created)
    }

    deinit {
        thread.withLock { thread in
            if let running = thread { _ = pthread_detach(running) }
        }
    }

    private static func blockedSignals() -> sigset_t {
        var set = sigset_t()
        sigfillset(&set)
        // A fault that is blocked ends the process without the report that its handler would give.
        for signal in [SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGTRAP, SIGABRT, SIGSYS, SIGPROF] { sigdelset(&set, signal) }
        return set
    }

    /// Waits until the closure has returned. Calling it again does nothing; calling it from the thread itself is a bug.
    public func join() {
        thread.withLock { thread in
            guard let running = thread else { return }
            precondition(pthread_equal(running, pthread_self()) == 0, "a thread cannot wait for itself")
            pthread_join(running, nil)
            thread = nil
        }
    }
}
