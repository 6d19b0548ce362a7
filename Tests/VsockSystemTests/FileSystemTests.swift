// SPDX-License-Identifier: Apache-2.0

import Glibc
import Testing
import VsockSystem
import VsockTestSupport

@Suite struct FileSystemTests {
    private let directory: TemporaryDirectory

    init() throws { directory = try TemporaryDirectory() }

    @Test("what was written is read, whole or in part, and a longer file is replaced by a shorter one")
    func content() throws {
        let path = directory.file("content")
        // More than one piece of reading.
        let long = (0..<3_000_000).map { UInt8(truncatingIfNeeded: $0 &* 31) }
        try FileSystem.write(long, to: path, mode: 0o640)
        #expect(directory.mode("content") == 0o640)
        #expect(try FileSystem.read(path) == long)
        #expect(try FileSystem.read(path, offset: 2_999_990, limit: 100) == Array(long[2_999_990...]))
        #expect(try FileSystem.read(path, offset: 5, limit: 3) == Array(long[5..<8]))
        #expect(try FileSystem.read(path, offset: 4_000_000) == [])
        try FileSystem.write([1, 2], to: path)
        #expect(try FileSystem.read(path) == [1, 2])
        try FileSystem.write([], to: path)
        #expect(try FileSystem.read(path) == [])
    }

    @Test("a file of the kernel, which has no size, is read to its end")
    func kernelFile() throws {
        let text = String(decoding: try FileSystem.read("/proc/self/status"), as: UTF8.self)
        #expect(text.contains("\nPid:\t\(CurrentProcess.identifier)\n"))
    }

    @Test("a file has one writer; the next finds it as it is until the first has gone")
    func oneWriter() throws {
        let path = directory.file("file")
        try FileSystem.write([1, 2, 3], to: path)
        do {
            let first = try FileSystem.createForOneWriter(path)
            #expect(try FileSystem.read(path) == [])
            #expect(([4, 5] as [UInt8]).withUnsafeBytes { DescriptorIO.write(first.rawValue, from: $0) } == .count(2))
            let error = #expect(throws: SystemCallError.self) { _ = try FileSystem.createForOneWriter(path) }
            #expect(error?.errno == .wouldBlock)
            #expect(try FileSystem.read(path) == [4, 5])
        }
        // A child that another test is just starting holds all descriptors until it execs.
        let deadline = MonotonicClock.now() + testDeadline
        while failure({ () throws(SystemCallError) in _ = try FileSystem.createForOneWriter(path) }) != nil {
            try #require(MonotonicClock.now() < deadline, "the file's writer does not go")
            sched_yield()
        }
        #expect(try FileSystem.read(path) == [])
    }

    @Test("a pipe that nobody reads is refused, not waited for")
    func pipeWithoutReader() throws {
        let path = directory.file("pipe")
        try #require(mkfifo(path, 0o600) == 0)
        let error = #expect(throws: SystemCallError.self) { _ = try FileSystem.createForOneWriter(path) }
        #expect(error.map { "\($0)" }?.hasSuffix("(nobody reads it: start its reader first)") == true)
        let reader = Glibc.open(path, O_RDONLY | O_NONBLOCK)
        defer { close(reader) }
        _ = try FileSystem.createForOneWriter(path)
    }

    @Test("an error names the call, the path and the reason")
    func errors() {
        let missing = directory.file("missing/file")
        let reading = failure { () throws(SystemCallError) in _ = try FileSystem.read(missing) }
        #expect(reading?.description == "open \(missing): No such file or directory")
        let writing = failure { () throws(SystemCallError) in try FileSystem.write([1], to: missing) }
        #expect(writing?.description == "open \(missing): No such file or directory")
        let folder = failure { () throws(SystemCallError) in _ = try FileSystem.read("/usr") }
        #expect(folder?.description == "read /usr: Is a directory")
        let listing = failure { () throws(SystemCallError) in _ = try FileSystem.names(in: missing) }
        #expect(listing?.description == "opendir \(missing): No such file or directory")
        let full = failure { () throws(SystemCallError) in try FileSystem.write([1], to: "/dev/full") }
        #expect(full?.description == "write /dev/full: No space left on device")
        let link = failure { () throws(SystemCallError) in try FileSystem.makeSymbolicLink(at: "/usr", to: "/") }
        #expect(link?.description == "symlink /usr: File exists")
    }

    @Test("a path leads to what is behind its links")
    func kinds() throws {
        try FileSystem.write([], to: directory.file("file"))
        try leaveStaleSocket(at: directory.file("socket"))
        try FileSystem.makeSymbolicLink(at: directory.file("link"), to: "socket")
        try FileSystem.makeSymbolicLink(at: directory.file("dangling"), to: "nothing")
        #expect(FileSystem.kind(of: directory.file("file")) == .regularFile)
        #expect(FileSystem.kind(of: directory.path) == .directory)
        #expect(FileSystem.kind(of: directory.file("socket")) == .socket)
        #expect(FileSystem.kind(of: directory.file("link")) == .socket)
        #expect(FileSystem.kind(of: "/dev/null") == .other)
        #expect(FileSystem.kind(of: directory.file("dangling")) == nil)
        #expect(!FileSystem.exists(""))
        #expect(try FileSystem.names(in: directory.path) == ["dangling", "file", "link", "socket"])
    }

    @Test("what may be done with a file is told")
    func permissions() throws {
        try FileSystem.write([], to: directory.file("file"))
        #expect(FileSystem.permits([.read, .write], at: directory.file("file")))
        #expect(!FileSystem.permits(.execute, at: directory.file("file")))
        #expect(FileSystem.permits(.execute, at: "/bin/sh"))
        #expect(!FileSystem.permits(.read, at: directory.file("missing")))
    }

    @Test("a descriptor of a file is for reading unless writing is asked for, and closes on exec")
    func open() throws {
        let null = try FileSystem.open("/dev/null")
        #expect(write("x", to: null.rawValue) == .failed(.badFileDescriptor))
        #expect(fcntl(null.rawValue, F_GETFD) == FD_CLOEXEC)
        let both = try FileSystem.open("/dev/null", forWriting: true)
        #expect(write("x", to: both.rawValue) == .count(1))
        #expect(read(from: both.rawValue) == "")
    }

    @Test("a temporary directory is private and goes with everything in it, but not with what its links lead to")
    func temporaryDirectory() throws {
        let outside = directory.file("outside")
        try FileSystem.write([1], to: outside)
        var inner: TemporaryDirectory? = try TemporaryDirectory(prefix: "vsock-inner")
        let path = try #require(inner?.path)
        var status = stat()
        #expect(lstat(path, &status) == 0 && status.st_mode & 0o7777 == 0o700)
        #expect(path.split(separator: "/").last?.hasPrefix("vsock-inner.") == true)
        #expect(mkdir(path + "/a", 0o700) == 0 && mkdir(path + "/a/b", 0o700) == 0)
        try FileSystem.write([1], to: path + "/a/b/file")
        try FileSystem.makeSymbolicLink(at: path + "/a/link", to: directory.path)
        inner?.remove()
        #expect(!FileSystem.exists(path))
        #expect(try FileSystem.read(outside) == [1])
        inner?.remove()
        let second = try TemporaryDirectory()
        let secondPath = second.path
        #expect(secondPath != path)
        inner = second
        inner = nil
        withExtendedLifetime(second) { #expect(FileSystem.exists(secondPath)) }
    }

    @Test("a temporary directory is under TMPDIR, if nothing would take its path apart", arguments: ["", " ,b"])
    func temporaryDirectoryPlace(suffix: String) async throws {
        await #expect(processExitsWith: .success) { [suffix] in
            let outer = try TemporaryDirectory()
            let place = outer.path + "/a" + suffix
            #expect(mkdir(place, 0o700) == 0)
            setenv("TMPDIR", place, 1)
            let inner = try TemporaryDirectory()
            #expect(inner.path.hasPrefix(suffix.isEmpty ? place + "/" : "/tmp/vsock."))
        }
    }
}

@Suite struct CurrentProcessTests {
    @Test("program, directory and environment of this process")
    func current() throws {
        #expect(FileSystem.permits(.execute, at: CurrentProcess.executablePath))
        #expect(FileSystem.kind(of: CurrentProcess.currentDirectory) == .directory)
        let path = try #require(CurrentProcess.environment("PATH"))
        #expect(CurrentProcess.environment.contains("PATH=" + path))
        #expect(CurrentProcess.environment("NO_SUCH_VARIABLE") == nil)
    }

    @Test("a directory that is gone counts as the root")
    func noDirectory() async {
        await #expect(processExitsWith: .success) {
            let directory = try TemporaryDirectory()
            #expect(chdir(directory.path) == 0)
            directory.remove()
            #expect(CurrentProcess.currentDirectory == "/")
        }
    }

    @Test("the directory of a path is what comes before its last slash")
    func directoryOfPath() {
        for (path, directory) in [("/a/b", "/a"), ("a/b/c", "a/b"), ("/a", "/"), ("a", "."), ("/a/", "/a")] {
            #expect(FileSystem.directory(of: path) == directory, "\(path)")
        }
    }

    @Test("an owner is a user, a group or both, by name or number")
    func owner() throws {
        #expect(FileOwner("0") == FileOwner("root"))
        let root = try #require(FileOwner("root:root"))
        #expect(root.userID == 0 && root.groupID == 0)
        let group = try #require(FileOwner(":17"))
        #expect(group.userID == nil && group.groupID == 17)
        for text in ["", ":", "root:", "no such user", "root:no such group", "1:2:3", "4294967295", "-1", "0x10"] {
            #expect(FileOwner(text) == nil, "\(text)")
        }
    }
}
