// SPDX-License-Identifier: Apache-2.0

import Glibc
import Synchronization
import Testing
import VsockSystem
import VsockTestSupport

@Suite struct ChildProcessTests {
    @Test("standard input, output and error reach the child, and its status comes back")
    func standardDescriptors() throws {
        let input = try DescriptorIO.makePipe(nonBlocking: false)
        let output = try DescriptorIO.makePipe(nonBlocking: true)
        let error = try DescriptorIO.makePipe(nonBlocking: true)
        let inputWrite = input.writeEnd
        let inputRead = input.readEnd
        let outputWrite = output.writeEnd
        let outputRead = output.readEnd
        let errorWrite = error.writeEnd
        let errorRead = error.readEnd
        let child = try ChildProcess.spawn(
            "/bin/sh", arguments: ["-c", "cat; echo \"$0\" \"$WORD\" >&2; exit 7", "argument zero"],
            environment: ["PATH=/usr/bin:/bin", "WORD=from environment"], standardInput: inputRead.rawValue,
            standardOutput: outputWrite.rawValue, standardError: errorWrite.rawValue)
        _ = consume inputRead
        _ = consume outputWrite
        _ = consume errorWrite
        #expect(write("through the child", to: inputWrite.rawValue) == .count(17))
        _ = consume inputWrite
        #expect(try readAll(from: outputRead.rawValue) == "through the child")
        #expect(try readAll(from: errorRead.rawValue) == "argument zero from environment\n")
        #expect(try child.wait(timeoutNanoseconds: testDeadline) == .exited(7))
        #expect(try child.wait() == .exited(7))
    }

    @Test("a child starts with no signal blocked or ignored and only the standard descriptors")
    func cleanStart() throws {
        let output = try DescriptorIO.makePipe(nonBlocking: true)
        let outputWrite = output.writeEnd
        let outputRead = output.readEnd
        let raw = outputWrite.rawValue
        let spawned = Spawned()
        // On a thread of its own, because the mask belongs to the thread.
        let thread = try WorkerThread(name: "spawner") {
            var all = sigset_t()
            sigfillset(&all)
            pthread_sigmask(SIG_BLOCK, &all, nil)
            let child = try? ChildProcess.spawn(
                "/bin/sh", arguments: ["-c", "grep -E 'Sig(Blk|Ign)' /proc/self/status; ls /proc/self/fd"],
                standardInput: raw, standardOutput: raw)
            spawned.child.withLock { $0 = child }
        }
        thread.join()
        _ = consume outputWrite
        let child = try #require(spawned.child.withLock { $0 })
        let text = try readAll(from: outputRead.rawValue)
        let lines = text.split(separator: "\n").map(String.init)
        try #require(lines.count == 6, "\(text)")
        #expect(lines[0] == "SigBlk:\t0000000000000000")
        // Signals 32 and 33 are the C library's own: it does not let programs reset them.
        let ignored = try #require(UInt64(lines[1].dropFirst("SigIgn:\t".count), radix: 16))
        #expect(ignored & 0x7fff_ffff == 0)
        // 3 is the directory that ls reads.
        #expect(lines[2...] == ["0", "1", "2", "3"])
        #expect(try child.wait() == .exited(0))
    }

    @Test("a standard descriptor may be given for another one")
    func crossedDescriptors() async {
        await #expect(processExitsWith: .success) {
            let output = try DescriptorIO.makePipe(nonBlocking: true)
            let error = try DescriptorIO.makePipe(nonBlocking: true)
            let outputRead = output.readEnd
            let outputWrite = output.writeEnd
            let errorRead = error.readEnd
            let errorWrite = error.writeEnd
            let saved = [fcntl(1, F_DUPFD_CLOEXEC, 3), fcntl(2, F_DUPFD_CLOEXEC, 3)]
            dup2(outputWrite.rawValue, 1)
            dup2(errorWrite.rawValue, 2)
            _ = consume outputWrite
            _ = consume errorWrite
            let child = try ChildProcess.spawn(
                "sh", arguments: ["-c", "echo out; echo err >&2"], standardOutput: 2, standardError: 1)
            dup2(saved[0], 1)
            dup2(saved[1], 2)
            #expect(try child.wait(timeoutNanoseconds: testDeadline) == .exited(0))
            #expect(read(from: errorRead.rawValue) == "out\n")
            #expect(read(from: outputRead.rawValue) == "err\n")
        }
    }

    @Test("a signal ends a child and its group, and none is sent after it was waited for")
    func signals() throws {
        let output = try DescriptorIO.makePipe(nonBlocking: true)
        let outputWrite = output.writeEnd
        let outputRead = output.readEnd
        // The grandchild holds the pipe too: end of file means that both have ended.
        let child = try ChildProcess.spawn(
            "/bin/sh", arguments: ["-c", "sleep 1000 & echo started; wait"], standardOutput: outputWrite.rawValue,
            newProcessGroup: true)
        _ = consume outputWrite
        _ = try DescriptorIO.waitUntilReady(outputRead.rawValue, for: .readable, timeoutNanoseconds: testDeadline)
        #expect(read(from: outputRead.rawValue) == "started\n")
        #expect(try child.wait(timeoutNanoseconds: 1_000_000) == nil)
        try child.kill(SIGKILL)
        let status = try child.wait()
        #expect(status == .signalled(SIGKILL))
        #expect(status.shellStatus == 137)
        #expect(try isAtEndOfFile(outputRead.rawValue))
        #expect(failure { () throws(SystemCallError) in try child.kill(SIGKILL) }?.errno == .noSuchProcess)
    }

    @Test("further descriptors are 3, 4 and so on in the child, and there are no others")
    func furtherDescriptors() throws {
        let output = try DescriptorIO.makePipe(nonBlocking: true)
        let outputRead = output.readEnd
        let outputWrite = output.writeEnd
        var pipes: [SharedFileDescriptor] = []
        for number in 0..<40 {
            let pipe = try DescriptorIO.makePipe(nonBlocking: false)
            #expect(write("\(number) ", to: pipe.writeEnd.rawValue) != .wouldBlock)
            pipes.append(SharedFileDescriptor(pipe.readEnd))
        }
        // Our numbers are among the child's, in another order: copied one by one, they would overwrite each other.
        let script = "n=3; while [ $n -lt 43 ]; do cat /proc/self/fd/$n; n=$((n+1)); done; ls /proc/self/fd | wc -l"
        let child = try ChildProcess.spawn(
            "/bin/sh", arguments: ["-c", script], standardInput: outputRead.rawValue,
            standardOutput: outputWrite.rawValue, standardError: outputWrite.rawValue,
            furtherDescriptors: pipes.map(\.rawValue).reversed())
        _ = consume outputWrite
        let numbers = (0..<40).reversed().map { "\($0) " }.joined()
        // One more is the directory that ls reads.
        #expect(try readAll(from: outputRead.rawValue) == numbers + "44\n")
        #expect(try child.wait(timeoutNanoseconds: testDeadline) == .exited(0))
        withExtendedLifetime(pipes) {}
    }

    @Test("a child that has ended is known to have, and its group still takes signals until it is waited for")
    func hasEnded() throws {
        let output = try DescriptorIO.makePipe(nonBlocking: true)
        let outputWrite = output.writeEnd
        let outputRead = output.readEnd
        let input = try DescriptorIO.makePipe(nonBlocking: false)
        let inputRead = input.readEnd
        let inputWrite = input.writeEnd
        // The grandchild outlives the child and holds the pipe.
        let child = try ChildProcess.spawn(
            "/bin/sh", arguments: ["-c", "sleep 1000 & read line; exit 3"], standardInput: inputRead.rawValue,
            standardOutput: outputWrite.rawValue, newProcessGroup: true)
        _ = consume outputWrite
        #expect(try !child.hasEnded())
        #expect(try !child.hasEnded(withinNanoseconds: 1_000_000))
        #expect(write("\n", to: inputWrite.rawValue) == .count(1))
        #expect(try child.hasEnded(withinNanoseconds: testDeadline))
        #expect(try child.hasEnded())
        #expect(read(from: outputRead.rawValue) == nil)
        try child.kill(SIGKILL)
        #expect(try isAtEndOfFile(outputRead.rawValue))
        #expect(try child.wait() == .exited(3))
        #expect(try child.hasEnded(withinNanoseconds: testDeadline))
    }

    @Test("several threads may wait for one child")
    func manyWaiters() throws {
        let child = try ChildProcess.spawn("/bin/sleep", arguments: ["1000"])
        let results = Results()
        var threads: [WorkerThread] = []
        for _ in 0..<4 {
            threads.append(
                try WorkerThread(name: "waiter") {
                    let status = try? child.wait()
                    results.statuses.withLock { $0.append(status) }
                })
        }
        try child.kill(SIGTERM)
        for thread in threads { thread.join() }
        let statuses = results.statuses.withLock { $0 }
        #expect(statuses == [.signalled(SIGTERM), .signalled(SIGTERM), .signalled(SIGTERM), .signalled(SIGTERM)])
    }

    @Test(
        "a program that is not there is named in the error",
        arguments: ["/nonexistent/program", "no-such-program-here"])
    func missing(path: String) {
        let error = failure { () throws(SystemCallError) in _ = try ChildProcess.spawn(path) }
        #expect(error?.description == "posix_spawn \(path): No such file or directory")
    }
}

final class Results: Sendable {
    let statuses = Mutex<[ChildProcess.ExitStatus?]>([])
}

@Suite struct SignalReceiverTests {
    @Test("a blocked signal is received instead of ending the process")
    func receives() async {
        await #expect(processExitsWith: .success) {
            let receiver = try SignalReceiver()
            let poller = try Poller()
            try poller.add(receiver.rawDescriptor, .readable, token: 1)
            var events = PollEventBuffer(capacity: 1)
            #expect(receiver.next() == nil)
            #expect(pthread_kill(pthread_self(), SIGTERM) == 0)
            #expect(try poller.wait(into: &events, timeoutNanoseconds: testDeadline) == 1)
            #expect(receiver.next() == SIGTERM)
            #expect(pthread_kill(pthread_self(), SIGINT) == 0)
            #expect(receiver.next() == SIGINT)
            #expect(receiver.next() == nil)
        }
    }

    @Test("a number that is no signal is refused")
    func badSignal() {
        #expect(failure { () throws(SystemCallError) in _ = try SignalReceiver([1000]) }?.errno == .invalidArgument)
    }
}

@Suite struct ThreadAndLimitTests {
    @Test("a thread runs its closure under its name, and join waits for it")
    func thread() throws {
        let box = StringBox()
        let thread = try WorkerThread(name: "a-very-long-thread-name") {
            let file = open("/proc/thread-self/comm", O_RDONLY | O_CLOEXEC)
            box.text.withLock { $0 = read(from: file) ?? "" }
            close(file)
        }
        thread.join()
        #expect(box.text.withLock { $0 } == "a-very-long-thr\n")
    }

    @Test("a thread blocks signals but not its faults, and leaves its starter's mask alone")
    func threadSignals() throws {
        var before = sigset_t()
        pthread_sigmask(SIG_BLOCK, nil, &before)
        let box = StringBox()
        let thread = try WorkerThread(name: "signals") {
            var mask = sigset_t()
            pthread_sigmask(SIG_BLOCK, nil, &mask)
            let members = [SIGTERM, SIGCHLD, SIGSEGV, SIGBUS].map { "\(sigismember(&mask, $0))" }
            box.text.withLock { $0 = members.joined() }
        }
        thread.join()
        #expect(box.text.withLock { $0 } == "1100")
        var after = sigset_t()
        pthread_sigmask(SIG_BLOCK, nil, &after)
        for signal in 1...Int32(31) { #expect(sigismember(&before, signal) == sigismember(&after, signal)) }
    }

    @Test("a thread that is never joined ends by itself")
    func detached() throws {
        let notifier = try EventNotifier()
        do { _ = try WorkerThread(name: "detached") { notifier.signal() } }
        let ready = try DescriptorIO.waitUntilReady(
            notifier.rawDescriptor, for: .readable, timeoutNanoseconds: testDeadline)
        #expect(ready == .readable)
    }

    @Test("the limit of open files is raised to the hard limit, and open descriptors are counted")
    func limits() async {
        await #expect(processExitsWith: .success) {
            let raised = try ResourceLimits.raiseOpenFiles()
            #expect(try ResourceLimits.raiseOpenFiles() == raised)
            // The runner of the test may open a descriptor meanwhile, but not every time.
            var isCounted = false
            for _ in 0..<100 where !isCounted {
                let before = try ResourceLimits.openDescriptorCount()
                var notifiers: [EventNotifier] = []
                for _ in 0..<10 { notifiers.append(try EventNotifier()) }
                let during = try ResourceLimits.openDescriptorCount()
                notifiers.removeAll()
                let after = try ResourceLimits.openDescriptorCount()
                isCounted = during == before + 10 && after == before
            }
            #expect(isCounted)
        }
    }

    @Test("resident memory grows with what is touched")
    func resident() async {
        await #expect(processExitsWith: .success) {
            let before = try ResourceLimits.residentByteCount()
            let memory = try SharedMemory(name: "resident", byteCount: 64 << 20)
            memory.mapping.base.initializeMemory(as: UInt8.self, repeating: 1, count: 64 << 20)
            let after = try ResourceLimits.residentByteCount()
            #expect(after > before + (60 << 20) && after < before + (80 << 20))
        }
    }

    @Test("the clock never goes back")
    func clock() {
        var last = MonotonicClock.now()
        for _ in 0..<10_000 {
            let now = MonotonicClock.now()
            #expect(now >= last)
            last = now
        }
    }
}

final class Spawned: Sendable {
    let child = Mutex<ChildProcess?>(nil)
}

final class StringBox: Sendable {
    let text = Mutex("")
}
