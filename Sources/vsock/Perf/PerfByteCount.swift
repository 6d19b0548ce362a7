// SPDX-License-Identifier: Apache-2.0
//
// Values of options of `vsock perf`.

import ArgumentParser
import VsockWire

/// A number of bytes, at least 1 and at most 1 TiB: `4096`, `64K`, `2M`, `1G`.
struct PerfByteCount: ExpressibleByArgument, Sendable {
    let count: Int

    init(_ count: Int) { self.count = count }

    init?(argument: String) {
        let shifts: [Character: Int] = ["K": 10, "M": 20, "G": 30, "k": 10, "m": 20, "g": 30]
        let shift = argument.last.flatMap { shifts[$0] }
        guard let number = UInt(shift == nil ? argument : String(argument.dropLast())), number > 0,
            number <= 1 << 40, number << (shift ?? 0) <= 1 << 40
        else { return nil }
        count = Int(number << (shift ?? 0))
    }

    var defaultValueDescription: String { "\(count)" }
}

/// `stream` or `seqpacket`.
enum PerfSocketType: String, CaseIterable, ExpressibleByArgument {
    case stream
    case seqpacket

    var socketType: SocketType { self == .stream ? .stream : .seqpacket }
}
