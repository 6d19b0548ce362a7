// SPDX-License-Identifier: Apache-2.0
//
// The control socket of a daemon: a Unix stream socket on which a client asks what there is. One client at a time, on a
// thread of its own; the loops of the VMs are asked by their mailboxes, VM by VM, so that an answer holds up no loop for
// longer than it takes to copy one VM's table.

import Synchronization
import VsockSystem
import VsockWire

/// See the top of the file, and ``ControlLine`` for what is said.
public final class ControlServer: Sendable {
    /// The longest command has 18 bytes.
    private static let maximumCommandByteCount = 64
    /// Who asks wants to know at once. Others wait in the backlog meanwhile.
    public static let defaultClientTimeoutNanoseconds: UInt64 = 5_000_000_000
    /// After descriptors have run out.
    private static let pauseNanoseconds: UInt64 = 1_000_000_000

    private let stopNotifier: EventNotifier
    private let thread: WorkerThread

    /// Creates the socket, which only its owner can connect to, and answers for `daemon`. A client that takes longer
    /// is closed.
    public init(
        path: String, owner: FileOwner? = nil,
        clientTimeoutNanoseconds: UInt64 = defaultClientTimeoutNanoseconds, daemon: DeviceDaemon
    ) throws(SystemCallError) {
        let listener = try UnixListener(UnixAddress(path), type: .stream, mode: 0o600, owner: owner)
        let stopNotifier = try EventNotifier()
        self.stopNotifier = stopNotifier
        thread = try WorkerThread(name: "vsock-control") {
            Self.serve(listener, daemon, stopNotifier, clientTimeoutNanoseconds)
        }
    }

    /// Ends the server and removes the socket.
    public func stop() {
        stopNotifier.signal()
        thread.join()
    }

    private static func serve(
        _ listener: UnixListener, _ daemon: DeviceDaemon, _ stop: EventNotifier, _ clientTimeout: UInt64
    ) {
        while isReady(listener.rawDescriptor, .readable, stop, until: nil) {
            do throws(SystemCallError) {
                guard let client = try listener.accept() else { continue }
                answer(client.rawValue, daemon, stop, within: clientTimeout)
            } catch {
                // The client waits in the backlog.
                _ = isReady(-1, .readable, stop, until: MonotonicClock.now() + pauseNanoseconds)
            }
        }
    }

    private static func answer(
        _ client: Int32, _ daemon: DeviceDaemon, _ stop: EventNotifier, within timeout: UInt64
    ) {
        let deadline = MonotonicClock.now() + timeout
        guard let command = readCommand(client, stop, until: deadline) else { return }
        func say(_ lines: [ControlLine]) -> Bool {
            write(Array(lines.map(\.text).joined().utf8), to: client, stop, until: deadline)
        }
        let words = command.split(separator: " ")
        guard words.first == "sockets" || words.first == "limits", words.count <= 2 else {
            _ = say([.error("the command is sockets or limits, and perhaps a CID")])
            return
        }
        let all = daemon.guestCIDs
        let wanted = words.count == 1 ? all : all.filter { String($0) == words[1] }
        guard !wanted.isEmpty else {
            _ = say([.error("there is no VM with CID \(words[1])")])
            return
        }
        for cid in wanted {
            guard let table = daemon.table(of: cid, timeoutNanoseconds: timeout) else {
                _ = say([.error("the device of the VM with CID \(cid) does not answer")])
                return
            }
            let vm = ControlLine.vm(cid: cid, isReady: table.isReady, path: table.path)
            let lines =
                words[0] == "limits" ? table.limits.map(ControlLine.limit) : table.sockets.map(ControlLine.socket)
            guard say([vm] + lines) else { return }
        }
        _ = say([.end])
    }

    private static func readCommand(_ client: Int32, _ stop: EventNotifier, until deadline: UInt64) -> String? {
        var command: [UInt8] = []
        while command.last != UInt8(ascii: "\n") {
            guard command.count < maximumCommandByteCount, isReady(client, .readable, stop, until: deadline) else {
                return nil
            }
            let result = withUnsafeTemporaryAllocation(byteCount: maximumCommandByteCount, alignment: 1) { buffer in
                let result = DescriptorIO.receive(client, into: buffer)
                if case .count(let count) = result { command += buffer[..<count] }
                return result
            }
            switch result {
            case .count(0), .failed: return nil
            case .count, .wouldBlock: break
            }
        }
        return String(decoding: command.dropLast(), as: UTF8.self)
    }

    private static func write(
        _ bytes: [UInt8], to client: Int32, _ stop: EventNotifier, until deadline: UInt64
    ) -> Bool {
        var rest = bytes[...]
        while !rest.isEmpty {
            switch rest.withUnsafeBytes({ DescriptorIO.send(client, from: $0) }) {
            case .count(let count): rest = rest.dropFirst(count)
            case .wouldBlock:
                guard isReady(client, .writable, stop, until: deadline) else { return false }
            case .failed: return false
            }
        }
        return true
    }

    /// Waits for a descriptor; false when the time has passed or the server is to end.
    private static func isReady(
        _ descriptor: Int32, _ events: PollEvents, _ stop: EventNotifier, until deadline: UInt64?
    ) -> Bool {
        var timeout: UInt64?
        if let deadline {
            let now = MonotonicClock.now()
            guard now < deadline else { return false }
            timeout = deadline - now
        }
        var requests = [PollRequest(stop.rawDescriptor, .readable), PollRequest(descriptor, events)]
        let count = (try? DescriptorIO.waitUntilReady(&requests, timeoutNanoseconds: timeout)) ?? 0
        return count > 0 && requests[0].ready.isEmpty
    }
}
