// SPDX-License-Identifier: Apache-2.0
//
// Connections through the hybrid Unix sockets of a device, as Firecracker began them:
//
//      PATH, PATH_seqpacket      connect, write "CONNECT <port>\n", read "OK <number>\n": the guest's port is reached
//      PATH_<port>               listen: the guest connects to that port of its host
//
// A refused connection is closed without a word.

import VsockSystem

/// The hybrid sockets at a path.
struct HybridOpening {
    let path: String
    let type: UnixSocketType
    /// SO_SNDBUF, which bounds records. nil: much for records, the system's default for streams.
    let bufferByteCount: Int?

    /// Records as large as the kernel allows; it grants at most net.core.wmem_max.
    private static let recordBufferByteCount = 4 << 20

    /// The longest answer has 14 bytes.
    private static let maximumAnswerByteCount = 64

    // MARK: Connect

    /// Connects to a port of the guest.
    func connect(port: UInt32, timeoutNanoseconds: UInt64) throws -> RelaySocket {
        let target = type == .stream ? path : path + "_seqpacket"
        let descriptor: OwnedFileDescriptor
        do throws(SystemCallError) {
            descriptor = try UnixSocket.connect(to: UnixAddress(target), type: type, nonBlocking: false)
        } catch {
            throw Failure("\(error): \(remedy(error.errno))")
        }
        let raw = descriptor.rawValue
        setBuffer(raw)
        let command = Array("CONNECT \(port)\n".utf8)
        switch command.withUnsafeBytes({ DescriptorIO.send(raw, from: $0) }) {
        case .count(command.count), .failed(.brokenPipe): break
        case .failed(let errno): throw Failure("\(target): \(errno): is the device still running?")
        case .count, .wouldBlock: throw Failure("\(target) did not take the request: is it a hybrid vsock socket?")
        }
        try awaitAnswer(raw, target, port, timeoutNanoseconds)
        return try RelaySocket(descriptor, .unix, type: type, peer: "port \(port) at \(target)")
    }

    private func awaitAnswer(_ raw: Int32, _ target: String, _ port: UInt32, _ timeout: UInt64) throws {
        let refused = Failure(
            "port \(port) at \(target) refused the connection: is a program listening on it in the guest?")
        let deadline = MonotonicClock.now().addingReportingOverflow(timeout)
        var line: [UInt8] = []
        while true {
            let now = MonotonicClock.now()
            let left = deadline.overflow ? timeout : deadline.partialValue > now ? deadline.partialValue - now : 0
            guard try !DescriptorIO.waitUntilReady(raw, for: .readable, timeoutNanoseconds: left).isEmpty else {
                throw Failure(
                    "no answer from \(target) within \(timeout / 1_000_000_000) s: is the guest running? "
                        + "--connect-timeout waits longer")
            }
            switch readAnswer(raw, &line) {
            case .count(0), .failed(.connectionReset): throw refused
            case .failed(let errno): throw Failure("\(target): \(errno): is the device still running?")
            case .wouldBlock: continue
            case .count: break
            }
            let isWhole = line.last == UInt8(ascii: "\n") || type == .seqpacket
            if isWhole, Self.isAccepted(line) { return }
            if isWhole || line.count >= Self.maximumAnswerByteCount {
                throw Failure("\(target) gave an unknown answer, \(Self.quote(line)): is it a hybrid vsock socket?")
            }
        }
    }

    /// Takes a record, or no byte of a stream beyond the newline: what follows belongs to the connection.
    private func readAnswer(_ raw: Int32, _ line: inout [UInt8]) -> IOResult {
        withUnsafeTemporaryAllocation(byteCount: Self.maximumAnswerByteCount, alignment: 1) { buffer in
            var room = UnsafeMutableRawBufferPointer(rebasing: buffer[..<(buffer.count - line.count)])
            if type == .stream {
                guard case .count(let seen) = DescriptorIO.receive(raw, into: room, flags: .peek), seen > 0 else {
                    return DescriptorIO.receive(raw, into: room, flags: .doNotWait)
                }
                let newline = room[..<seen].firstIndex(of: UInt8(ascii: "\n"))
                room = UnsafeMutableRawBufferPointer(rebasing: room[..<(newline.map { $0 + 1 } ?? seen)])
            }
            let result = DescriptorIO.receive(raw, into: room)
            if case .count(let count) = result { line.append(contentsOf: room[..<count]) }
            return result
        }
    }

    /// "OK", a blank and a number.
    static func isAccepted(_ line: [UInt8]) -> Bool {
        let text = line.last == UInt8(ascii: "\n") ? line.dropLast() : line[...]
        let prefix = Array("OK ".utf8)
        guard text.starts(with: prefix) else { return false }
        return UInt32(String(decoding: text.dropFirst(prefix.count), as: UTF8.self)) != nil
    }

    /// Text of a stranger, fit for one line of a terminal.
    private static func quote(_ line: [UInt8]) -> String {
        let shown = line.prefix(32).map { byte in
            (0x20..<0x7f).contains(byte) ? String(UnicodeScalar(byte)) : "."
        }
        return "\"\(shown.joined())\""
    }

    private func remedy(_ errno: Errno) -> String {
        switch errno {
        case .noSuchFile, .connectionRefused:
            type == .stream
                ? "is the device running (vsock serve --uds-path \(path))?"
                : "is the device running, and does it offer SOCK_SEQPACKET (vsock serve --uds-path \(path))?"
        case .permissionDenied: "run as the user of the device, or give access to the socket"
        case .wrongSocketType: "that socket is of the other type; give the path without _seqpacket"
        default: "--transport uds:PATH is the device's --uds-path"
        }
    }

    // MARK: Listen

    /// Listens on a port for the guest.
    func listen(port: UInt32) throws -> any ConnectionListener {
        let address = try UnixAddress("\(path)_\(port)")
        let listener: UnixListener
        do throws(SystemCallError) {
            listener = try UnixListener(address, type: type)
        } catch {
            switch error.errno {
            case .noSuchFile: throw Failure("\(error): there is no such directory; give the device's --uds-path")
            case .permissionDenied: throw Failure("\(error): run as the user of the device")
            default: throw Failure("\(error)")
            }
        }
        return Listener(opening: self, port: port, listener: listener)
    }

    private struct Listener: ConnectionListener {
        let opening: HybridOpening
        let port: UInt32
        let listener: UnixListener

        var rawDescriptor: Int32 { listener.rawDescriptor }
        var address: String { listener.address.path }

        func accept() throws -> RelaySocket? {
            guard let descriptor = try listener.accept() else { return nil }
            opening.setBuffer(descriptor.rawValue)
            return try RelaySocket(descriptor, .unix, type: opening.type, peer: "the guest at \(address)")
        }
    }

    /// Best effort: a record that is too large fails with a line that says so.
    private func setBuffer(_ raw: Int32) {
        guard let byteCount = bufferByteCount ?? (type == .seqpacket ? Self.recordBufferByteCount : nil) else { return }
        try? SocketOptions.setSendBuffer(raw, byteCount: byteCount)
    }
}
