// SPDX-License-Identifier: Apache-2.0

import VsockCore
import VsockTransport
import VsockWire

/// The sockets of the package's own driver.
struct DriverGuestSockets: DemoGuestSockets {
    let sockets: DriverSockets

    func listen(_ type: SocketType, port: UInt32) throws { try sockets.listen(type, port: port) }

    func accept(port: UInt32) throws -> ConnectionID {
        try sockets.accept(port: port, timeoutNanoseconds: DemoTraffic.timeoutNanoseconds)
    }

    func connect(_ type: SocketType, port: UInt32) throws -> ConnectionID {
        try sockets.connect(
            type, to: VsockAddress(cid: .host, port: VsockAddress.Port(rawValue: port)),
            timeoutNanoseconds: DemoTraffic.timeoutNanoseconds)
    }

    func send(_ bytes: [UInt8], to socket: ConnectionID) throws {
        try sockets.send(bytes, to: socket, timeoutNanoseconds: DemoTraffic.timeoutNanoseconds)
    }

    func receive(_ socket: ConnectionID) throws -> [UInt8]? {
        try sockets.receive(socket, timeoutNanoseconds: DemoTraffic.timeoutNanoseconds)?.bytes
    }

    func finishSending(_ socket: ConnectionID) throws { try sockets.shutdown(socket, .send) }

    func close(_ socket: ConnectionID) throws { try sockets.close(socket) }
}
