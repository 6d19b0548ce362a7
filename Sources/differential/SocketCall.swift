// SPDX-License-Identifier: Apache-2.0
//
// One socket call of a script, as a value and as a line of text. Sockets are numbers, chosen by the script. A call that
// may wait waits as long as the socket's time limits say, which are never infinite here; `nowait` is MSG_DONTWAIT for
// data, and O_NONBLOCK for connect and accept.
//
//      socket 1 stream              listen 1 2                 send 3 100 7 nowait eor      (100 bytes, pattern 7)
//      bind 1 local 5000            accept 1 3 nowait          recv 3 50 nowait peek trunc all
//      connect 2 local @1 nowait    (@1: the port of socket 1)
//      shutdown 3 wr                set 3 size 4096            get 3 size
//      poll 3   error 3   name 3   peer 3   outq 3   close 3

import VsockTransport
import VsockWire

/// A call, vsock(7).
enum SocketCall: Hashable, Sendable {
    /// Where to connect to.
    enum Port: Hashable, Sendable {
        case number(UInt32)
        /// The port that another socket of the script is bound to.
        case of(Int)
    }

    /// Flags of a receive.
    struct ReceiveFlags: OptionSet, Hashable, Sendable {
        let rawValue: UInt8
        static let noWait = ReceiveFlags(rawValue: 1)
        static let peek = ReceiveFlags(rawValue: 2)
        static let truncate = ReceiveFlags(rawValue: 4)
        static let waitAll = ReceiveFlags(rawValue: 8)

        static let names: [(flag: ReceiveFlags, name: String)] = [
            (.noWait, "nowait"), (.peek, "peek"), (.truncate, "trunc"), (.waitAll, "all"),
        ]
    }

    /// Options of setsockopt(2). Sizes are bytes, times are milliseconds.
    enum Option: String, Hashable, CaseIterable, Sendable {
        case size, min, max, lowat, rcvtimeo, sndtimeo, conntimeo
    }

    /// SHUT_RD, SHUT_WR, SHUT_RDWR
    enum Direction: String, Hashable, CaseIterable, Sendable {
        case rd, wr, rdwr
    }

    case socket(Int, SocketType)
    case bind(Int, cid: UInt32, port: UInt32)
    case listen(Int, backlog: Int)
    case connect(Int, cid: UInt32, Port, noWait: Bool)
    case accept(Int, as: Int, noWait: Bool)
    case send(Int, count: Int, pattern: UInt8, noWait: Bool, endOfRecord: Bool)
    case receive(Int, count: Int, ReceiveFlags)
    case shutdown(Int, Direction)
    case set(Int, Option, Int)
    case get(Int, Option)
    case poll(Int)
    case error(Int)
    case name(Int)
    case peer(Int)
    case unsent(Int)
    case close(Int)

    /// The socket that the call is made on.
    var slot: Int {
        switch self {
        case .socket(let slot, _), .bind(let slot, _, _), .listen(let slot, _), .connect(let slot, _, _, _),
            .accept(let slot, _, _), .send(let slot, _, _, _, _), .receive(let slot, _, _), .shutdown(let slot, _),
            .set(let slot, _, _), .get(let slot, _), .poll(let slot), .error(let slot), .name(let slot),
            .peer(let slot), .unsent(let slot), .close(let slot):
            slot
        }
    }
}

extension SocketCall: CustomStringConvertible {
    var description: String {
        func flag(_ name: String, _ isSet: Bool) -> String { isSet ? " \(name)" : "" }
        switch self {
        case .socket(let slot, let type): return "socket \(slot) \(type == .stream ? "stream" : "seqpacket")"
        case .bind(let slot, let cid, let port):
            return "bind \(slot) \(Self.cidText(cid)) \(port == .max ? "any" : "\(port)")"
        case .listen(let slot, let backlog): return "listen \(slot) \(backlog)"
        case .connect(let slot, let cid, let port, let noWait):
            let target =
                switch port {
                case .number(let number): "\(number)"
                case .of(let other): "@\(other)"
                }
            return "connect \(slot) \(Self.cidText(cid)) \(target)" + flag("nowait", noWait)
        case .accept(let slot, let new, let noWait): return "accept \(slot) \(new)" + flag("nowait", noWait)
        case .send(let slot, let count, let pattern, let noWait, let endOfRecord):
            return "send \(slot) \(count) \(pattern)" + flag("nowait", noWait) + flag("eor", endOfRecord)
        case .receive(let slot, let count, let flags):
            return ReceiveFlags.names.reduce("recv \(slot) \(count)") { $0 + flag($1.name, flags.contains($1.flag)) }
        case .shutdown(let slot, let direction): return "shutdown \(slot) \(direction.rawValue)"
        case .set(let slot, let option, let value): return "set \(slot) \(option.rawValue) \(value)"
        case .get(let slot, let option): return "get \(slot) \(option.rawValue)"
        case .poll(let slot): return "poll \(slot)"
        case .error(let slot): return "error \(slot)"
        case .name(let slot): return "name \(slot)"
        case .peer(let slot): return "peer \(slot)"
        case .unsent(let slot): return "outq \(slot)"
        case .close(let slot): return "close \(slot)"
        }
    }

    /// A line; nil when it is not understood.
    init?(_ line: String) {
        var words = line.split(separator: " ").map(String.init)[...]
        func number<Number: FixedWidthInteger>(_ type: Number.Type = Number.self) -> Number? {
            words.popFirst().flatMap { Number($0) }
        }
        func flag(_ name: String) -> Bool {
            guard words.first == name else { return false }
            words.removeFirst()
            return true
        }
        guard let verb = words.popFirst(), let slot: Int = number() else { return nil }
        switch verb {
        case "socket":
            guard let type = words.popFirst(), ["stream", "seqpacket"].contains(type) else { return nil }
            self = .socket(slot, type == "stream" ? .stream : .seqpacket)
        case "bind":
            guard let cid = Self.cid(words.popFirst()), let port = words.popFirst() else { return nil }
            guard let port = port == "any" ? .max : UInt32(port) else { return nil }
            self = .bind(slot, cid: cid, port: port)
        case "listen":
            guard let backlog: Int = number() else { return nil }
            self = .listen(slot, backlog: backlog)
        case "connect":
            guard let cid = Self.cid(words.popFirst()), let target = words.popFirst() else { return nil }
            let isSocket = target.hasPrefix("@")
            let port = isSocket ? Int(target.dropFirst()).map { Port.of($0) } : UInt32(target).map { .number($0) }
            guard let port else { return nil }
            self = .connect(slot, cid: cid, port, noWait: flag("nowait"))
        case "accept":
            guard let new: Int = number() else { return nil }
            self = .accept(slot, as: new, noWait: flag("nowait"))
        case "send":
            guard let count: Int = number(), count >= 0, let pattern: UInt8 = number() else { return nil }
            self = .send(slot, count: count, pattern: pattern, noWait: flag("nowait"), endOfRecord: flag("eor"))
        case "recv":
            guard let count: Int = number(), count >= 0 else { return nil }
            var flags: ReceiveFlags = []
            for entry in ReceiveFlags.names where flag(entry.name) { flags.insert(entry.flag) }
            self = .receive(slot, count: count, flags)
        case "shutdown":
            guard let direction = words.popFirst().flatMap({ Direction(rawValue: $0) }) else { return nil }
            self = .shutdown(slot, direction)
        case "set":
            guard let option = words.popFirst().flatMap({ Option(rawValue: $0) }), let value: Int = number() else {
                return nil
            }
            self = .set(slot, option, value)
        case "get":
            guard let option = words.popFirst().flatMap({ Option(rawValue: $0) }) else { return nil }
            self = .get(slot, option)
        case "poll": self = .poll(slot)
        case "error": self = .error(slot)
        case "name": self = .name(slot)
        case "peer": self = .peer(slot)
        case "outq": self = .unsent(slot)
        case "close": self = .close(slot)
        default: return nil
        }
        guard words.isEmpty else { return nil }
    }

    private static let cidNames: [(cid: UInt32, name: String)] = [(.max, "any"), (1, "local"), (2, "host")]

    private static func cidText(_ cid: UInt32) -> String { cidNames.first { $0.cid == cid }?.name ?? "\(cid)" }

    private static func cid(_ text: String?) -> UInt32? {
        text.flatMap { text in cidNames.first { $0.name == text }?.cid ?? UInt32(text) }
    }
}
