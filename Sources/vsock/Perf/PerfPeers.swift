// SPDX-License-Identifier: Apache-2.0
//
// Both sides of a measurement, joined: how the connections come about.

import Vsock
import VsockSystem
import VsockTransport
import VsockWire

/// Two sides whose connections are open, and what they are joined by.
struct PerfPeers {
    let guest: any PerfSide
    let host: any PerfSide
    /// For the report.
    let transport: String

    // MARK: A device

    /// The package's driver on one side of whatever device listens on `socket`, programs of the host on the other: the
    /// guest connects to the Unix sockets at `path`. `onOpen` is called when the connections that carry messages are
    /// open and the silent ones are not.
    static func device(
        socket: String, path: String, _ plan: PerfPlan, bufferByteCount: UInt32, onOpen: () throws -> Void
    ) throws -> PerfPeers {
        let listener = try UnixListener(
            UnixAddress("\(path)_\(plan.port)"), type: plan.type == .stream ? .stream : .seqpacket)
        let driver = try DriverSide(path: socket, plan, bufferByteCount: bufferByteCount)
        var accepted: [SharedFileDescriptor] = []
        for index in 0..<(plan.connectionCount + plan.idleCount) {
            if index == plan.connectionCount { try onOpen() }
            try driver.connect()
            // Before it answers the guest, the device has connected.
            guard let descriptor = try listener.accept() else { throw Failure("\(listener.address): nobody connected") }
            accepted.append(SharedFileDescriptor(descriptor))
        }
        return PerfPeers(guest: driver, host: DescriptorSide(accepted, plan), transport: "driver:\(socket)")
    }

    /// The package's driver and its device, both in this process.
    static func inProcess(socket: String, _ plan: PerfPlan, bufferByteCount: UInt32) throws -> PerfPeers {
        let transport = VsockTransport.device(socket)
        try transport.setTap(plan.tap)
        try transport.open()
        let listener = try VsockListener.bindBlocking(
            plan.type, port: VsockAddress.Port(rawValue: plan.port), on: transport,
            options: bufferOptions(bufferByteCount))
        // Each packet crosses once, and the device's end shows it.
        var guestPlan = plan
        guestPlan.tap = nil
        let driver = try DriverSide(path: socket, guestPlan, bufferByteCount: bufferByteCount)
        var accepted: [VsockSocket] = []
        for _ in 0..<(plan.connectionCount + plan.idleCount) {
            try driver.connect()
            accepted.append(try listener.acceptBlocking())
        }
        return PerfPeers(guest: driver, host: SocketSide(accepted, plan), transport: "driver:\(socket), in one process")
    }

    /// Sockets of the process that reach each other. The side that connects is the guest.
    static func loopback(
        _ transport: VsockTransport, _ plan: PerfPlan, bufferByteCount: UInt32
    ) throws -> PerfPeers {
        try transport.setTap(plan.tap)
        let options = bufferOptions(bufferByteCount)
        let port = VsockAddress.Port(rawValue: plan.port)
        let listener = try VsockListener.bindBlocking(plan.type, port: port, on: transport, options: options)
        var connected: [VsockSocket] = []
        var accepted: [VsockSocket] = []
        for _ in 0..<(plan.connectionCount + plan.idleCount) {
            connected.append(
                try VsockSocket.connectBlocking(
                    plan.type, to: VsockAddress(cid: .local, port: port), over: transport, options: options))
            accepted.append(try listener.acceptBlocking())
        }
        return PerfPeers(
            guest: SocketSide(connected, plan), host: SocketSide(accepted, plan), transport: transport.description)
    }

    /// The options of a socket with a receive buffer of so many bytes.
    static func bufferOptions(_ byteCount: UInt32) -> [SocketOption] {
        [.bufferMaximumSize(UInt64(byteCount)), .bufferSize(UInt64(byteCount))]
    }

    // MARK: To compare with

    /// Plain Unix sockets between two threads.
    static func unixThreads(_ plan: PerfPlan) throws -> PerfPeers {
        let (first, second) = try makePairs(plan)
        return PerfPeers(
            guest: DescriptorSide(first, plan), host: DescriptorSide(second, plan), transport: "Unix sockets of threads"
        )
    }

    /// Plain Unix sockets between two processes: what any device that ends in Unix sockets can at most reach. The one
    /// that is started is the host for round trips, else the one that sends.
    static func unixProcesses(_ plan: PerfPlan, _ role: PerfRole) throws -> (PerfPeers, ChildProcess) {
        let (first, second) = try makePairs(plan)
        var arguments = [
            "perf", "--baseline", PerfBaseline.unix.rawValue, "--inherited-role", role.rawValue, "--type",
            plan.type == .stream ? "stream" : "seqpacket", "--buf-size", "\(plan.messageByteCount)", "--connections",
            "\(plan.connectionCount)", "--idle", "\(plan.idleCount)",
        ]
        switch plan.limit {
        case .bytes(let count): arguments += ["--bytes", "\(count)"]
        case .nanoseconds(let time): arguments += ["--seconds", PerfReport.decimal(Double(time) / 1e9, 3)]
        }
        let child = try withExtendedLifetime(second) {
            try ChildProcess.spawn(
                CurrentProcess.executablePath, arguments: arguments, furtherDescriptors: second.map(\.rawValue))
        }
        let here = DescriptorSide(first, plan)
        return (PerfPeers(guest: here, host: here, transport: "Unix sockets of processes"), child)
    }

    /// The sockets that ``unixProcesses(_:_:)`` has left to this process.
    static func inherited(_ plan: PerfPlan) -> DescriptorSide {
        let descriptors = (0..<(plan.connectionCount + plan.idleCount)).map { index in
            SharedFileDescriptor(OwnedFileDescriptor(owning: Int32(3 + index)))
        }
        return DescriptorSide(descriptors, plan)
    }

    private static func makePairs(_ plan: PerfPlan) throws -> ([SharedFileDescriptor], [SharedFileDescriptor]) {
        var first: [SharedFileDescriptor] = []
        var second: [SharedFileDescriptor] = []
        for _ in 0..<(plan.connectionCount + plan.idleCount) {
            let pair = try UnixSocket.makePair(plan.type == .stream ? .stream : .seqpacket, nonBlocking: false)
            first.append(SharedFileDescriptor(pair.first))
            second.append(SharedFileDescriptor(pair.second))
        }
        return (first, second)
    }
}
