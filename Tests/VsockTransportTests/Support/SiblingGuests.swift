// SPDX-License-Identifier: Apache-2.0
//
// Guests of one daemon that talk to each other. Each is a driver with sockets, which one thread serves at a time.

import Synchronization
import Testing
import VsockCore
import VsockSystem
import VsockWire

@testable import VsockTransport

/// One guest of a daemon.
final class SiblingGuest: @unchecked Sendable {
    // Unchecked: a test hands it from one thread to the next, never to two.

    let cid: VsockAddress.ContextID
    let sockets: DriverSockets

    init(_ cid: UInt32, _ path: String, _ framing: RecordFraming) throws {
        self.cid = VsockAddress.ContextID(rawValue: cid)
        var options = VsockDriver.Options()
        options.acceptsSeqpacket = framing == .standard
        sockets = DriverSockets(try VsockDriver(path: path, options: options))
    }

    /// Runs on a thread of its own; the guest belongs to that until the value has been taken.
    func start<Value: Sendable>(
        _ body: @escaping @Sendable (DriverSockets) throws -> Value
    ) throws -> Background<Value> {
        try Background { try body(self.sockets) }
    }

    /// Serves the driver on a thread of its own until told to stop.
    func serve(until isDone: Done) throws -> Background<Bool> {
        try start { sockets in
            try sockets.serve { isDone.value }
            return true
        }
    }

    /// What becomes of a connection to a port of another guest.
    func failure(_ type: SocketType, to cid: VsockAddress.ContextID, port: UInt32) throws -> SocketError? {
        do {
            let id = try sockets.connect(
                type, to: VsockAddress(cid: cid, port: .init(rawValue: port)), timeoutNanoseconds: testDeadline)
            try sockets.close(id)
            return nil
        } catch let error as SocketError {
            return error
        }
    }

    /// Connects to a port of another guest, which another thread serves.
    func connect(_ type: SocketType, to other: SiblingGuest, port: UInt32 = 7) throws -> ConnectionID {
        try sockets.connect(
            type, to: VsockAddress(cid: other.cid, port: .init(rawValue: port)), timeoutNanoseconds: testDeadline)
    }
}

/// Tells a thread that it is done.
final class Done: Sendable {
    private let isSet = Mutex(false)
    var value: Bool { isSet.withLock { $0 } }
    func set() { isSet.withLock { $0 = true } }
}

/// A daemon with several VMs. Stops with the object.
final class SiblingDaemon {
    let directory: TemporaryDirectory
    let log = LogRecorder()
    private let daemon: DeviceDaemon

    /// VMs with CIDs from 3 on, one for each list of groups.
    init(_ groups: [Set<String>], workerLimit: Int = 2) throws {
        let directory = try TemporaryDirectory()
        self.directory = directory
        let vms = groups.enumerated().map { index, groups in
            var vm = VsockDeviceConfiguration(
                guestCID: UInt32(3 + index), socketPath: directory.file("s\(3 + index)"),
                hybridPath: directory.file("v\(3 + index)"))
            vm.groups = groups
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

extension DriverSockets {
    /// So many bytes of a stream.
    func receive(_ id: ConnectionID, exactly byteCount: Int) throws -> [UInt8] {
        var bytes: [UInt8] = []
        while bytes.count < byteCount {
            guard let more = try receive(id, timeoutNanoseconds: testDeadline) else {
                throw TestFailure("the end after \(bytes.count) of \(byteCount) bytes")
            }
            bytes += more.bytes
        }
        return bytes
    }

    /// Everything until the end.
    func receiveToEnd(_ id: ConnectionID) throws -> [UInt8] {
        var bytes: [UInt8] = []
        while let more = try receive(id, timeoutNanoseconds: testDeadline) { bytes += more.bytes }
        return bytes
    }
}
