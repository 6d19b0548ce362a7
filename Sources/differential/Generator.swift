// SPDX-License-Identifier: Apache-2.0
//
// Random calls. Most scripts begin with two sockets that connect, since most of what there is to see needs that; after
// it anything may come, and what makes little sense comes rarely. The same seed gives the same scripts.

import VsockTestSupport
import VsockTransport
import VsockWire

/// Proposes the calls of one script, one after the other.
struct Generator {
    /// Ports above it are none of a script's.
    static let largestPort: UInt32 = 65_535

    private static let ports: [UInt32] = [0, 5, 80, 1023, 1024, 2000, 5000]
    private static let slotCount = 8

    private var random: PRNG
    private let usualType: SocketType
    private var opening: [SocketCall] = []

    init(seed: UInt64) {
        random = PRNG(seed: seed)
        usualType = random.chance(percent: 50) ? .stream : .seqpacket
        if random.chance(percent: 90) { makeOpening() }
    }

    private mutating func makeOpening() {
        let port: UInt32 = random.chance(percent: 20) ? .max : random.pick(Self.ports)
        opening = [.socket(0, usualType), .socket(1, usualType)]
        if random.chance(percent: 30) {
            let size = pickSize()
            opening += [.set(0, .size, size), .set(1, .size, random.chance(percent: 80) ? size : pickSize())]
        }
        opening += [
            .bind(0, cid: random.chance(percent: 70) ? .max : 1, port: port),
            .listen(0, backlog: random.pick([0, 1, 2, 5])),
            .connect(1, cid: 1, .of(0), noWait: random.chance(percent: 40)),
        ]
        // A crowd, which may be more than the backlog.
        if random.chance(percent: 25) {
            for slot in 3..<(4 + random.below(4)) {
                opening += [
                    .socket(slot, usualType), .connect(slot, cid: 1, .of(0), noWait: random.chance(percent: 40)),
                ]
            }
        }
        opening.append(.accept(0, as: 2, noWait: random.chance(percent: 50)))
    }

    private mutating func pickSize() -> Int {
        random.pick([1, 128, 1000, 8192, 16_384, 65_536, 200_000, 262_144, 1 << 20])
    }

    /// The next call, which suits what there is by now.
    mutating func next(_ connections: ScriptConnections) -> SocketCall {
        if !opening.isEmpty { return opening.removeFirst() }
        let slot = pickSlot(connections)
        let socket = connections.sockets[slot]
        guard let socket else { return .socket(slot, random.chance(percent: 85) ? usualType : other(usualType)) }
        // What has ended makes room for something new.
        let hasEnded = socket.connection?.hasEnded(socket.side) ?? false
        if random.chance(percent: hasEnded ? 20 : 2) { return .close(slot) }
        if random.chance(percent: 20) { return question(slot) }
        if socket.connection != nil, random.chance(percent: 95) { return data(slot, socket) }
        if socket.backlog != nil, random.chance(percent: socket.acceptQueue.isEmpty ? 10 : 90) {
            let noWait = random.chance(percent: socket.acceptQueue.isEmpty ? 90 : 50)
            return .accept(slot, as: freeSlot(connections), noWait: noWait)
        }
        return setup(slot, socket, connections)
    }

    /// A socket that is not there, if there is one.
    private mutating func freeSlot(_ connections: ScriptConnections) -> Int {
        let free = (0..<Self.slotCount).filter { connections.sockets[$0] == nil }
        return free.isEmpty || random.chance(percent: 5) ? random.below(Self.slotCount) : random.pick(free)
    }

    /// A socket that is there, more often than not; a listener that somebody waits for, or a connection.
    private mutating func pickSlot(_ connections: ScriptConnections) -> Int {
        let known = connections.sockets.keys.sorted()
        guard !known.isEmpty, random.chance(percent: 94) else { return random.below(Self.slotCount) }
        let busy = known.filter {
            let socket = connections.sockets[$0]
            return socket?.connection != nil || socket?.acceptQueue.isEmpty == false
        }
        return random.pick(busy.isEmpty || random.chance(percent: 25) ? known : busy)
    }

    private func other(_ type: SocketType) -> SocketType { type == .stream ? .seqpacket : .stream }

    private mutating func question(_ slot: Int) -> SocketCall {
        switch random.below(10) {
        case 0...3: .poll(slot)
        case 4: .error(slot)
        case 5: .name(slot)
        case 6: .peer(slot)
        case 7: .unsent(slot)
        default: .get(slot, random.pick(SocketCall.Option.allCases))
        }
    }

    private mutating func data(_ slot: Int, _ socket: ScriptSocket) -> SocketCall {
        switch random.below(100) {
        case ..<45:
            return .send(
                slot, count: pickCount(socket), pattern: UInt8(random.below(256)), noWait: random.chance(percent: 85),
                endOfRecord: random.chance(percent: 25))
        case ..<86: return receive(slot, socket)
        case ..<90: return .shutdown(slot, random.pick(SocketCall.Direction.allCases))
        default: return option(slot)
        }
    }

    /// Bytes to send or to receive: few, many, or about as many as matter.
    private mutating func pickCount(_ socket: ScriptSocket) -> Int {
        guard let connection = socket.connection, random.chance(percent: 50) else {
            return random.chance(percent: 15)
                ? random.pick([0, 65_536, 65_537, 200_000, 262_144, 262_145, 300_000]) : random.below(3000)
        }
        let mine = connection.flows[socket.side]
        let buffer = connection.bufferSizes[1 - socket.side]
        let space = buffer - connection.flows[1 - socket.side].unreadByteCount
        let about = random.pick([mine.unread.first ?? 1, mine.unreadByteCount, buffer, space])
        return max(0, min(2_000_000, about + random.pick([-1, 0, 0, 1])))
    }

    private mutating func receive(_ slot: Int, _ socket: ScriptSocket) -> SocketCall {
        var flags: SocketCall.ReceiveFlags = []
        let hasData = !(socket.connection?.flows[socket.side].unread.isEmpty ?? true)
        if random.chance(percent: hasData ? 50 : 90) { flags.insert(.noWait) }
        if random.chance(percent: 20) { flags.insert(.peek) }
        if random.chance(percent: 20) { flags.insert(.truncate) }
        if random.chance(percent: 8) { flags.insert(.waitAll) }
        return .receive(slot, count: pickCount(socket), flags)
    }

    private mutating func option(_ slot: Int) -> SocketCall {
        let option =
            random.chance(percent: 50) ? random.pick([.size, .lowat]) : random.pick(SocketCall.Option.allCases)
        switch option {
        case .size: return .set(slot, option, random.chance(percent: 5) ? 1 << 33 : pickSize())
        case .min: return .set(slot, option, random.pick([0, 128, 1000, 70_000, 300_000]))
        case .max: return .set(slot, option, random.pick([64, 4096, 100_000, 262_144, 1 << 20, 1 << 40]))
        case .lowat: return .set(slot, option, random.pick([-1, 0, 1, 2, 10, 1000, 100_000, 262_144, 262_145]))
        case .rcvtimeo, .sndtimeo: return .set(slot, option, random.pick([20, 40]))
        case .conntimeo: return .set(slot, option, random.pick([0, 20, 1000]))
        }
    }

    private mutating func setup(
        _ slot: Int, _ socket: ScriptSocket, _ connections: ScriptConnections
    ) -> SocketCall {
        if socket.port != nil, socket.backlog == nil, random.chance(percent: 30) {
            return .listen(slot, backlog: random.pick([-1, 0, 1, 2, 3]))
        }
        switch random.below(100) {
        case ..<25:
            return .bind(
                slot, cid: random.pick([.max, .max, .max, 1, 1, 2, 0, 99]),
                port: random.chance(percent: 25) ? .max : random.pick(Self.ports))
        case ..<30: return .listen(slot, backlog: random.pick([-1, 0, 1, 2, 3]))
        case ..<75:
            let listeners = connections.sockets.filter { $0.value.backlog != nil }.keys.sorted()
            let port: SocketCall.Port
            if !listeners.isEmpty, random.chance(percent: 80) {
                port = .of(random.pick(listeners))
            } else if random.chance(percent: 50) {
                port = .of(random.below(Self.slotCount))
            } else {
                port = .number(random.chance(percent: 10) ? .max : random.pick(Self.ports))
            }
            return .connect(
                slot, cid: random.chance(percent: 80) ? 1 : random.pick([.max, 0, 2, 99]), port,
                noWait: random.chance(percent: 50))
        case ..<80: return .accept(slot, as: freeSlot(connections), noWait: true)
        case ..<84: return .send(slot, count: random.below(100), pattern: 1, noWait: true, endOfRecord: false)
        case ..<88: return .receive(slot, count: random.below(100), .noWait)
        case ..<92: return .shutdown(slot, random.pick(SocketCall.Direction.allCases))
        default: return option(slot)
        }
    }
}
