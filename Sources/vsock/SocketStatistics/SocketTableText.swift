// SPDX-License-Identifier: Apache-2.0
//
// A table of sockets in the manner of ss(8), with the credit of both directions.

import VsockTransport
import VsockWire

enum SocketTableText {
    static let header = row([
        "Netid", "State", "Recv-Q", "Send-Q", "Local Address:Port", "Peer Address:Port", "Recv-Credit", "Send-Credit",
    ])

    static func line(_ entry: SocketEntry) -> String {
        let hasData = entry.state != .listening
        return row([
            // The names of ss(8) for types of vsock sockets.
            entry.type == .seqpacket ? "v_seq" : "v_str", entry.state.rawValue, "\(entry.receiveQueueByteCount)",
            "\(entry.sendQueueByteCount)", address(entry.local), address(entry.peer),
            hasData ? "\(entry.receiveCredit)" : "-", hasData ? "\(entry.sendCredit)" : "-",
        ])
    }

    private static func address(_ address: VsockAddress) -> String {
        address.port == .any ? "\(address.cid.rawValue):*" : "\(address)"
    }

    private static func row(_ cells: [String]) -> String {
        let widths = [6, 9, 10, 10, 24, 24, 12, 0]
        return zip(cells, widths).map { cell, width in
            cell + String(repeating: " ", count: width == 0 ? 0 : max(1, width - cell.count))
        }.joined()
    }
}
