// SPDX-License-Identifier: Apache-2.0
//
// The daemon as its users have it: what it refuses to start with, what it leaves behind, and how it stops.

import Testing
import VsockCore
import VsockSystem
import VsockTransport
import VsockWire

@Suite("Device daemon")
struct DeviceDaemonTests {
    private let directory: TemporaryDirectory
    private let log = LogRecorder()

    init() throws { directory = try TemporaryDirectory() }

    private func vm(_ cid: UInt32, _ name: String) -> VsockDeviceConfiguration {
        VsockDeviceConfiguration(
            guestCID: cid, socketPath: directory.file("\(name).s"), hybridPath: directory.file("\(name).v"))
    }

    /// Why a daemon does not start.
    private func failure(_ vms: [VsockDeviceConfiguration], workerLimit: Int = 1) -> String {
        do {
            try DeviceDaemon(vms, workerLimit: workerLimit, log: log.logger).stop()
            return "it started"
        } catch {
            return "\(error)"
        }
    }

    /// One byte from the guest of a VM to a host program.
    private func check(_ vm: VsockDeviceConfiguration) throws {
        let guest = try GuestSockets(path: vm.socketPath)
        #expect(guest.driver.guestCID.rawValue == vm.guestCID)
        let listener = try UnixListener(UnixAddress(vm.hybridPath + "_7"), type: .stream)
        let socket = try guest.connect(.stream, port: 7)
        let host = try listener.take()
        try socket.send([5])
        #expect(try host.receive() == [5])
    }

    @Test("reserved context IDs are refused", arguments: [0, 1, 2, .max] as [UInt32])
    func reserved(cid: UInt32) {
        #expect(failure([vm(cid, "a")]) == "guest-cid \(cid) is reserved: use 3 to 4294967294")
        #expect(directory.names == [])
    }

    @Test("a context ID, or a path, belongs to one VM")
    func duplicates() {
        #expect(failure([vm(3, "a"), vm(3, "b")]).contains("guest-cid 3 is given to two VMs"))
        #expect(failure([vm(3, "a"), vm(4, "a")]).contains("a.s is used twice"))
        var other = vm(4, "b")
        other.hybridPath = vm(3, "a").hybridPath
        #expect(failure([vm(3, "a"), other]).contains("a.v is used twice"))
        other.hybridPath = vm(3, "a").hybridPath + "_seqpacket"
        #expect(failure([vm(3, "a"), other]).contains("a.v_seqpacket is used twice"))
        var same = vm(3, "a")
        same.hybridPath = same.socketPath
        #expect(failure([same]).contains("is used twice"))
        #expect(directory.names == [])
    }

    @Test("queue sizes that no driver could have are refused", arguments: [0, -1, 3, 1000, 65536])
    func queueSize(size: Int) {
        var configuration = vm(3, "a")
        configuration.queueSize = size
        #expect(failure([configuration]).contains("queue-size \(size)"))
    }

    @Test("a path that does not fit a socket address is named, with the limit")
    func longPath() {
        let name = String(repeating: "x", count: 100)
        #expect(failure([vm(3, name)]).contains("at most 107"))
        // PATH fits, PATH_seqpacket does not.
        var configuration = vm(3, "a")
        let room = UnixAddress.maximumPathByteCount - directory.path.utf8.count - 1
        configuration.hybridPath = directory.file(String(repeating: "x", count: room))
        #expect(failure([configuration]).contains("_seqpacket"))
        configuration.hybridPath = ""
        #expect(failure([configuration]).contains("not a path"))
        #expect(directory.names == [])
    }

    @Test("a live socket is never replaced, whoever has it", arguments: ["a.s", "a.v", "a.v_seqpacket"])
    func liveSocket(name: String) throws {
        let listener = try UnixListener(UnixAddress(directory.file(name)), type: .stream)
        let reason = failure([vm(3, "a")])
        #expect(reason.contains(name) && reason.contains("another process is listening there"))
        #expect(directory.names == [name])
        let client = try HostProgram(connectingTo: directory.file(name), type: .stream)
        try client.send([1])
        // The daemon's attempts are before it.
        while try listener.take().receive() != [1] {}
    }

    @Test("stale sockets are replaced, anything else is never touched")
    func staleSocket() throws {
        for name in ["a.s", "a.v", "a.v_seqpacket"] { try leaveStaleSocket(at: directory.file(name)) }
        let daemon = try DeviceDaemon([vm(3, "a")], workerLimit: 1, log: log.logger)
        try check(vm(3, "a"))
        daemon.stop()
        #expect(directory.names == [])
        directory.createFile("a.v")
        #expect(failure([vm(3, "a")]).contains("not a socket, so it is not replaced"))
        #expect(directory.names == ["a.v"])
    }

    @Test("a directory that does not exist, or is none, is named")
    func noDirectory() {
        directory.createFile("file")
        for place in ["missing/a", "file/a"] {
            let reason = failure([vm(3, place)])
            #expect(reason.contains("\(place).s"))
            #expect(reason.contains(place == "file/a" ? "Not a directory" : "No such file or directory"))
        }
        #expect(directory.names == ["file"])
    }

    @Test("when one VM cannot be served, no socket of the others is left", arguments: [1, 2, 3])
    func nothingLeft(workerLimit: Int) throws {
        let reason = failure([vm(3, "a"), vm(4, "b"), vm(5, "missing/c")], workerLimit: workerLimit)
        #expect(reason.contains("missing/c"))
        #expect(directory.names == [])
        // Nor does anyone still listen: the same VMs can be served now.
        let daemon = try DeviceDaemon([vm(3, "a"), vm(4, "b")], workerLimit: workerLimit, log: log.logger)
        try check(vm(3, "a"))
        try check(vm(4, "b"))
        daemon.stop()
    }

    @Test("VMs on one thread and on several are served alike", arguments: [1, 2, 8])
    func several(workerLimit: Int) throws {
        let vms = (3...6).map { vm($0, "vm\($0)") }
        let daemon = try DeviceDaemon(vms, workerLimit: workerLimit, log: log.logger)
        #expect(directory.names.count == 12)
        for vm in vms { try check(vm) }
        daemon.stop()
        #expect(directory.names == [])
    }

    @Test("sockets are the owner's alone unless told otherwise", arguments: [0o600, 0o660, 0o666] as [UInt32])
    func mode(mode: UInt32) throws {
        var configuration = vm(3, "a")
        if mode != 0o600 { configuration.socketMode = mode }
        let daemon = try DeviceDaemon([configuration], workerLimit: 1, log: log.logger)
        for name in ["a.s", "a.v", "a.v_seqpacket"] { #expect(directory.mode(name) == mode) }
        daemon.stop()
    }

    @Test("stop resets the guest's connections, closes the host's, and removes the sockets", arguments: [false, true])
    func stop(isStarved: Bool) throws {
        let daemon = try DeviceDaemon([vm(3, "a")], workerLimit: 1, log: log.logger)
        var options = VsockDriver.Options()
        options.queueSize = isStarved ? 4 : 256
        let guest = PacketGuest(try VsockDriver(path: vm(3, "a").socketPath, options: options))
        let listener = try UnixListener(UnixAddress(directory.file("a.v_7")), type: .stream)
        try guest.connect(to: 7)
        let host = try listener.take()
        let silent = try HostProgram(connectingTo: directory.file("a.v"), type: .stream)
        if isStarved {
            // More than the guest's buffers hold, which it does not empty meanwhile.
            try host.send(pattern(100_000))
        }
        daemon.stop()
        #expect(try silent.isClosedWithoutText())
        #expect(try host.receive() == nil)
        if isStarved {
            // There was no room for a reset: the end of the session tells the guest.
            #expect(throws: VsockDriverError.self) {
                while try guest.next().header.operation == .readWrite {}
            }
        } else {
            #expect(try guest.next().header.operation == .reset)
        }
        #expect(directory.names == ["a.v_7"])
        daemon.stop()
    }
}
