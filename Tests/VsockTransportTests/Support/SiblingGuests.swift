// SPDX-License-Identifier: Apache-2.0
//
// Guests of one daemon that talk to each other. Each is a driver with sockets.

import Testing
import VsockCore
import VsockSystem
import VsockWire

@testable import VsockTransport

/// One guest of a daemon.
final class SiblingGuest: Sendable {
    let cid: VsockAddress.ContextID
    let sockets: GuestSockets

    init(_ cid: UInt32, _ path: String, _ framing: RecordFraming) throws {
        self.cid = VsockAddress.ContextID(rawValue: cid)
        var options = VsockDriver.Options()
        options.acceptsSeqpacket = framing == .standard
        sockets = try GuestSockets(path: path, options: options)
    }

    /// Takes a connection to a port that is listened on, and runs with it on a thread of its own.
    func serve<Value: Sendable>(
        port: UInt32 = 7, _ body: @escaping @Sendable (any ConnectibleSocket) throws -> Value
    ) throws -> Background<Value> {
        try Background { try body(self.sockets.accept(port: port)) }
    }

    /// What becomes of a connection to a port of another guest.
    func failure(_ type: SocketType, to cid: VsockAddress.ContextID, port: UInt32) throws -> SocketError? {
        do {
            try sockets.connect(type, to: cid, port: port).close()
            return nil
        } catch let error as SocketError {
            return error
        }
    }

    /// Connects to a port of another guest.
    func connect(_ type: SocketType, to other: SiblingGuest, port: UInt32 = 7) throws -> any ConnectibleSocket {
        try sockets.connect(type, to: other.cid, port: port)
    }

    /// Waits until its connections have ended on both sides.
    func waitForEnds() throws { try eventually { sockets.connectionCount == 0 } }
}

/// A daemon with several VMs. Stops with the object.
final class SiblingDaemon {
    let directory: TemporaryDirectory
    let log = LogRecorder()
    let daemon: DeviceDaemon

    /// VMs with CIDs from 3 on, one for each list of groups.
    init(_ groups: [Set<String>], limits: DeviceLimits = DeviceLimits(), workerLimit: Int = 2) throws {
        let directory = try TemporaryDirectory()
        self.directory = directory
        let vms = groups.enumerated().map { index, groups in
            var vm = VsockDeviceConfiguration(
                guestCID: UInt32(3 + index), socketPath: directory.file("s\(3 + index)"),
                hybridPath: directory.file("v\(3 + index)"))
            vm.groups = groups
            vm.limits = limits
            return vm
        }
        daemon = try DeviceDaemon(vms, workerLimit: workerLimit, log: log.logger)
    }

    deinit { daemon.stop() }

    /// Boots the guest of a VM.
    func guest(_ cid: UInt32, _ framing: RecordFraming = .standard) throws -> SiblingGuest {
        try SiblingGuest(cid, socketPath(cid), framing)
    }

    func socketPath(_ cid: UInt32) -> String { directory.file("s\(cid)") }
}
