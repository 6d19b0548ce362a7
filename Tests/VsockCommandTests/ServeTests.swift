// SPDX-License-Identifier: Apache-2.0
//
// What `vsock serve` makes of its process and of its sockets' files.

import Glibc
import Testing
import VsockSystem

@Suite struct ServeTests {
    /// `serve` for one VM, ready.
    private final class Service {
        let directory: TemporaryDirectory
        let command: RunningCommand
        let announcement: String

        init(_ options: [String] = []) throws {
            directory = try TemporaryDirectory()
            command = try RunningCommand(
                ["serve", "--socket", directory.file("vm.sock"), "--uds-path", directory.file("vm")] + options)
            announcement = try readText(command.output, until: "QEMU")
        }

        /// A line of /proc/PID/status, without its name.
        func status(_ name: String) throws -> String? {
            let bytes = try FileSystem.read("/proc/\(command.processID)/status", limit: 1 << 16)
            let line = String(decoding: bytes, as: UTF8.self).split(separator: "\n").first { $0.hasPrefix(name + ":") }
            return line.map { String($0.dropFirst(name.utf8.count + 1)).replacing("\t", with: "") }
        }

        /// Permissions and owner of a socket.
        func file(_ name: String) -> stat? {
            var status = stat()
            return lstat(directory.file(name), &status) == 0 ? status : nil
        }

        func stop() throws -> CommandResult {
            try command.kill(SIGTERM)
            return try command.finish()
        }
    }

    private let files = ["vm.sock", "vm", "vm_seqpacket"]

    @Test("rights are given up, and all that is said of it is true", .disabled(if: isSanitized))
    func sandbox() throws {
        let service = try Service()
        let line = try #require(service.announcement.split(separator: "\n").first { $0.hasPrefix("sandbox: ") })
        #expect((try service.status("NoNewPrivs") == "1") == line.contains("no_new_privs"))
        let active = line.split(separator: ";")[0]
        #expect((try service.status("Seccomp") == "2") == active.contains("seccomp"))
        let result = try service.stop()
        #expect(result.status == 0, "\(result.error)")
        for name in files { #expect(service.file(name) == nil, "\(name) stays") }
    }

    @Test("a monitor that shortens its memory is disconnected; the next one is served", arguments: [0, 4096])
    func shortenedMemory(byteCount: Int) throws {
        let service = try Service()
        let guest = try HostileGuest(cid: 3, path: service.directory.file("vm.sock"))
        // Whether that is answered before the device looks at its rings is open.
        try? guest.shortenMemory(to: byteCount)
        // As long as the first is connected, this one is turned away.
        _ = try HostileGuest(cid: 3, path: service.directory.file("vm.sock"))
        withExtendedLifetime(guest) {}
        let result = try service.stop()
        #expect(result.status == 0)
        #expect(result.error.contains("memory of the monitor is gone"))
    }

    @Test("--no-sandbox keeps all rights")
    func noSandbox() throws {
        let service = try Service(["--no-sandbox"])
        #expect(!service.announcement.contains("sandbox:"))
        #expect(try service.status("Seccomp") == "0")
        #expect(try service.stop().status == 0)
    }

    @Test("the sockets have the mode and the owner that were asked for")
    func modeAndOwner() throws {
        let (user, group) = (getuid(), getgid())
        // Another group where we may give files away.
        let wanted: UInt32 = user == 0 ? 12345 : group
        let service = try Service(["--socket-mode", "0660", "--socket-owner", "\(user):\(wanted)"])
        for name in files {
            let status = try #require(service.file(name), "\(name)")
            #expect(status.st_mode & 0o777 == 0o660)
            #expect(status.st_uid == user && status.st_gid == wanted)
        }
        #expect(try service.stop().status == 0)
    }

    @Test("as many threads as wanted serve VMs, and no more than there are VMs", arguments: [(1, 1), (2, 2), (9, 3)])
    func threads(wanted: Int, count: Int) throws {
        let directory = try TemporaryDirectory()
        let vms = [3, 4, 5].flatMap { cid in
            ["--vm", "guest-cid=\(cid),socket=\(directory.path)/s\(cid),uds-path=\(directory.path)/v\(cid)"]
        }
        let command = try RunningCommand(["serve", "--threads", "\(wanted)"] + vms)
        var announced = ""
        while announced.ranges(of: "QEMU").count < 3 { announced += try readText(command.output, until: "\n") }
        let tasks = "/proc/\(command.processID)/task"
        let names = try FileSystem.names(in: tasks).map { task in
            String(decoding: try FileSystem.read("\(tasks)/\(task)/comm", limit: 64), as: UTF8.self)
        }
        #expect(names.count { $0 == "vsock-device\n" } == count, "\(names)")
        try command.kill(SIGTERM)
        #expect(try command.finish().status == 0)
    }

    @Test(
        "a mode or an owner that is none is wrong usage",
        arguments: [
            ["--socket-mode", "0x1ff"], ["--socket-mode", "888"], ["--socket-mode", "1777"], ["--socket-mode", ""],
            ["--socket-owner", ""], ["--socket-owner", ":"], ["--socket-owner", "no such user"],
        ])
    func wrongModeOrOwner(options: [String]) throws {
        let command = try RunningCommand(["serve", "--socket", "/nowhere/a", "--uds-path", "/nowhere/b"] + options)
        let result = try command.finish()
        #expect(result.status == 64)
        #expect(result.errorLine != nil, "\(result.error)")
    }
}
