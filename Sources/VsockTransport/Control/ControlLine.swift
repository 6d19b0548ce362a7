// SPDX-License-Identifier: Apache-2.0
//
// What is said on the control socket of a daemon, line by line. A client says one line, is answered, and the socket is
// closed:
//
//      sockets\n                   all VMs
//      sockets 3\n                 the VM with CID 3
//      limits\n, limits 3\n        the same for the limits of VMs
//
//      vm 3 ready /run/vm3.vsock                                             a VM: ready or waiting; PATH of the host
//      socket stream ESTAB 2:1073741824 3:1234 0 0 262144 262144             the fields of SocketEntry, in order
//      limit max-connections 16384 12 0                                      name, value, current (- for none), reached
//      error there is no VM with CID 9                                       instead of all others
//      end                                                                   the answer is complete
//
// Lines that begin with another word are to be skipped, so that there may be more of them one day.

import VsockWire

/// A line of an answer.
public enum ControlLine: Sendable, Equatable {
    /// A VM; its sockets follow.
    case vm(cid: UInt32, isReady: Bool, path: String)
    /// A socket of the last VM.
    case socket(SocketEntry)
    /// A limit of the last VM.
    case limit(LimitEntry)
    /// Why there is no answer.
    case error(String)
    /// The answer is complete.
    case end

    /// Reads a line; nil for one that means nothing here.
    public init?(_ line: some StringProtocol) {
        let words = line.split(separator: " ", maxSplits: 3, omittingEmptySubsequences: false)
        switch words.first {
        case "vm":
            guard words.count == 4, let cid = UInt32(words[1]), words[2] == "ready" || words[2] == "waiting" else {
                return nil
            }
            self = .vm(cid: cid, isReady: words[2] == "ready", path: String(words[3]))
        case "socket":
            guard let entry = SocketEntry(controlWords: line.split(separator: " ").dropFirst().map { String($0) })
            else {
                return nil
            }
            self = .socket(entry)
        case "limit":
            guard let entry = LimitEntry(controlWords: line.split(separator: " ").dropFirst().map { String($0) }) else {
                return nil
            }
            self = .limit(entry)
        case "error":
            self = .error(line.split(separator: " ", maxSplits: 1).dropFirst().first.map { String($0) } ?? "")
        case "end" where words.count == 1:
            self = .end
        default:
            return nil
        }
    }

    /// The line, with its newline.
    public var text: String {
        switch self {
        case .vm(let cid, let isReady, let path):
            "vm \(cid) \(isReady ? "ready" : "waiting") \(Self.oneLine(path))\n"
        case .socket(let entry): "socket \(entry.controlWords)\n"
        case .limit(let entry): "limit \(entry.controlWords)\n"
        case .error(let reason): "error \(Self.oneLine(reason))\n"
        case .end: "end\n"
        }
    }

    /// A line is a line, whatever a path may be, and whatever a client may have asked for. Scalars, because a carriage
    /// return and a line feed are one `Character`.
    private static func oneLine(_ text: String) -> String {
        String(String.UnicodeScalarView(text.unicodeScalars.map { $0 == "\n" ? "?" : $0 }))
    }
}

extension SocketEntry {
    fileprivate var controlWords: String {
        "\(type == .seqpacket ? "seqpacket" : "stream") \(state.rawValue) \(local) \(peer) "
            + "\(receiveQueueByteCount) \(sendQueueByteCount) \(receiveCredit) \(sendCredit)"
    }

    fileprivate init?(controlWords words: [String]) {
        guard words.count == 8, let type = ["stream": SocketType.stream, "seqpacket": .seqpacket][words[0]],
            let state = State(rawValue: words[1]), let local = VsockAddress(controlWord: words[2]),
            let peer = VsockAddress(controlWord: words[3])
        else { return nil }
        self.init(type: type, state: state, local: local, peer: peer)
        let numbers = words[4...].compactMap { Int($0) }
        guard numbers.count == 4, numbers.allSatisfy({ $0 >= 0 }) else { return nil }
        receiveQueueByteCount = numbers[0]
        sendQueueByteCount = numbers[1]
        receiveCredit = numbers[2]
        sendCredit = numbers[3]
    }
}

extension LimitEntry {
    fileprivate var controlWords: String {
        "\(name.rawValue) \(limit) \(current.map { "\($0)" } ?? "-") \(reachedCount)"
    }

    fileprivate init?(controlWords words: [String]) {
        guard words.count == 4, let name = DeviceLimits.Name(rawValue: words[0]), let limit = Int(words[1]),
            let reachedCount = Int(words[3]), words[2] == "-" || Int(words[2]) != nil
        else { return nil }
        self.init(name: name, limit: limit, current: Int(words[2]), reachedCount: reachedCount)
    }
}

extension VsockAddress {
    fileprivate init?(controlWord word: String) {
        let parts = word.split(separator: ":", omittingEmptySubsequences: false)
        guard parts.count == 2, let cid = UInt32(parts[0]), let port = UInt32(parts[1]) else { return nil }
        self.init(cid: ContextID(rawValue: cid), port: Port(rawValue: port))
    }
}
