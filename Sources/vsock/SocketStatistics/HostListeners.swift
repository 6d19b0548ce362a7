// SPDX-License-Identifier: Apache-2.0
//
// Programs on the host that listen for a guest, at `PATH_<port>`: the kernel's list of Unix sockets (proc(5),
// /proc/net/unix) has their paths, as they were bound.
//
//      Num       RefCount Protocol Flags    Type St Inode Path
//      0000…:    00000002 00000000 00010000 0001 01 12345 /run/vm3.vsock_1234

import VsockTransport
import VsockWire

enum HostListeners {
    /// `__SO_ACCEPTCON`: the socket listens.
    private static let acceptsConnections: UInt32 = 0x10000

    /// The listeners of a VM whose sockets are at `path`, by port.
    static func find(in list: String, path: String, guestCID: UInt32) -> [SocketEntry] {
        var entries: [SocketEntry] = []
        for line in list.split(separator: "\n") {
            let words = line.split(separator: " ", maxSplits: 7)
            guard words.count == 8, let flags = UInt32(words[3], radix: 16), flags & acceptsConnections != 0,
                let type = UInt16(words[4], radix: 16), words[7].hasPrefix(path + "_"),
                let port = UInt32(words[7].dropFirst(path.count + 1))
            else { continue }
            entries.append(
                SocketEntry(
                    // SOCK_SEQPACKET is 5.
                    type: type == 5 ? .seqpacket : .stream, state: .listening,
                    local: VsockAddress(cid: .host, port: VsockAddress.Port(rawValue: port)),
                    peer: VsockAddress(cid: VsockAddress.ContextID(rawValue: guestCID), port: .any)))
        }
        return entries.sorted { $0.local.port.rawValue < $1.local.port.rawValue }
    }
}
