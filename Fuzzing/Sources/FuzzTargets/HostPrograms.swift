// SPDX-License-Identifier: Apache-2.0
//
// Host programs of a device under fuzz: the other ends of its sockets.

import VsockSystem
import VsockWire

@testable import VsockTransport

final class HostPrograms {
    private static let limit = 6

    private final class Program {
        let descriptor: OwnedFileDescriptor
        init(_ descriptor: consuming OwnedFileDescriptor) { self.descriptor = descriptor }
    }

    private var programs: [Program] = []
    private var listeners: [UnixListener] = []

    /// A client that has said CONNECT asks for a port of the guest.
    func connect(_ fuzz: DeviceUnderFuzz, _ input: inout FuzzInput) {
        let isStream = input.flag()
        guard programs.count < Self.limit,
            let pair = try? UnixSocket.makePair(isStream ? .stream : .seqpacket, nonBlocking: true)
        else { return }
        fuzz.host.connectToGuest(pair.first, type: isStream ? .stream : .seqpacket, port: UInt32(input.below(4)))
        programs.append(Program(pair.second))
    }

    /// Listeners, and what comes of them.
    func step(_ fuzz: DeviceUnderFuzz, _ input: inout FuzzInput) {
        if input.below(4) == 0, listeners.count < 2 {
            let isStream = input.flag()
            guard fuzz.hasPath else { return }
            let path = "\(fuzz.host.path)_\(5000 + listeners.count)"
            if let address = try? UnixAddress(path),
                let listener = try? UnixListener(address, type: isStream ? .stream : .seqpacket, backlog: 2)
            {
                listeners.append(listener)
            }
            return
        }
        for listener in listeners {
            while programs.count < Self.limit, let accepted = try? listener.accept() {
                programs.append(Program(accepted))
            }
        }
    }

    /// Writes, reads, shuts down or closes.
    func talk(_ input: inout FuzzInput) {
        guard !programs.isEmpty else { return }
        let index = input.below(programs.count)
        let raw = programs[index].descriptor.rawValue
        switch input.below(8) {
        case 0, 1, 2:
            let bytes = [UInt8](repeating: input.byte(), count: input.below(9000))
            _ = bytes.withUnsafeBytes { DescriptorIO.send(raw, from: $0) }
        case 3, 4:
            withUnsafeTemporaryAllocation(byteCount: 8192, alignment: 1) { buffer in
                _ = DescriptorIO.receive(raw, into: buffer, flags: .doNotWait)
            }
        case 5: try? SocketOptions.shutdown(raw, .send)
        case 6: try? SocketOptions.shutdown(raw, .receive)
        default: programs.remove(at: index)
        }
    }

    /// All programs end.
    func leave() {
        programs.removeAll()
        listeners.removeAll()
    }
}
