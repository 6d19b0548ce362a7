// SPDX-License-Identifier: Apache-2.0
//
// rust-vmm's vhost-device-vsock as a child process: a device that nobody here wrote. `make test` fetches it.

import Glibc
import Testing
import VsockSystem

@testable import VsockTransport

/// One VM served by vhost-device-vsock.
final class PeerDevice {
    /// Where the program is: what Scripts/fetch-peer.sh has printed.
    static let program = getenv("VSOCK_PEER").map { String(cString: $0) } ?? ""

    let directory: TemporaryDirectory
    private let child: ChildProcess

    init() throws {
        directory = try TemporaryDirectory()
        child = try ChildProcess.spawn(
            Self.program,
            arguments: ["--guest-cid", "3", "--socket", directory.file("d"), "--uds-path", directory.file("v")])
    }

    deinit {
        try? child.kill(SIGKILL)
        _ = try? child.wait()
    }

    /// The guest of the device, as soon as it listens.
    func guest() throws -> GuestSockets {
        var guest: GuestSockets?
        try eventually {
            do {
                guest = try GuestSockets(path: directory.file("d"))
            } catch VsockDriverError.system(let error) where Self.isAbsence(error.errno) {
                guard try !child.hasEnded() else { throw TestFailure("\(Self.program) has ended") }
            }
            return guest != nil
        }
        return try #require(guest)
    }

    /// A host program that listens for the guest.
    func listen(port: UInt32) throws -> UnixListener {
        try UnixListener(UnixAddress(directory.file("v_\(port)")), type: .stream)
    }

    /// A host program that has asked for a port of the guest.
    func connect(port: UInt32) throws -> HostProgram {
        let client = try HostProgram(connectingTo: directory.file("v"), type: .stream)
        try client.send("CONNECT \(port)\n")
        return client
    }

    private static func isAbsence(_ errno: Errno) -> Bool { errno == .noSuchFile || errno == .connectionRefused }
}
