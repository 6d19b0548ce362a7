// SPDX-License-Identifier: Apache-2.0
//
// Applications at both sides of an ``EndpointPair`` that talk until all is said and closed, under conditions drawn
// from a seed. After every packet: nobody exceeds the peer's buffer. At the end: what came is what was sent, with its
// boundaries, and no slot is taken.

import VsockCore
import VsockWire

/// A run of random traffic.
public struct TrafficSimulation: ~Copyable {
    /// Rounds in which nothing may happen by chance (a lazy reader) or because packets are on their way.
    static let patience = 60
    /// Far more than any run needs.
    static let maximumRoundCount = 20_000

    let options: TrafficOptions
    var pair: EndpointPair
    var random: PRNG
    /// By side, by conversation.
    var sockets: [[SimulatedSocket?]]
    /// By side.
    var conversations: [[ConnectionID: Int]] = [[:], [:]]
    /// What must not be; empty when all is well.
    public internal(set) var violations: [String] = []
    /// Rounds that the run took.
    public private(set) var roundCount = 0

    /// A run under given conditions.
    public init(_ options: TrafficOptions, seed: UInt64) {
        self.options = options
        random = PRNG(seed: seed)
        sockets = Array(repeating: Array(repeating: nil, count: options.conversations.count), count: 2)
        var guest = EndpointConfiguration.guest(options.framing)
        guest.bufferByteCount = options.guestBufferByteCount
        var host = EndpointConfiguration.host(options.framing)
        host.bufferByteCount = options.hostBufferByteCount
        pair = EndpointPair(guest: guest, host: host)
        pair.losesCreditRequests = options.losesCreditRequests
    }

    /// A run under conditions that the seed draws.
    public init(seed: UInt64) {
        var random = PRNG(seed: seed)
        let options = TrafficOptions.drawn(using: &random)
        self.init(options, seed: random.next())
    }

    /// A hash over all packets of the run.
    public var traceHash: UInt64 { pair.traceHash }
    /// Packets of the run.
    public var packetCount: Int { pair.packetCount }
    /// The time that the run took by its own clock.
    public var elapsed: Instant { pair.now }

    /// Runs to the end.
    public mutating func run() {
        start()
        var idleRoundCount = 0
        while roundCount < Self.maximumRoundCount, violations.isEmpty {
            let hasProgressed = playRound()
            if isFinished { break }
            pair.advance(byNanoseconds: 1)
            idleRoundCount = hasProgressed ? 0 : idleRoundCount + 1
            guard idleRoundCount > Self.patience else { continue }
            idleRoundCount = 0
            guard let deadline = pair.nextDeadline else {
                violations.append("nothing moves any more")
                break
            }
            pair.advance(to: deadline)
        }
        if !isFinished, violations.isEmpty { violations.append("still busy after \(roundCount) rounds") }
        if violations.isEmpty { checkOutcome() }
    }

    private var isFinished: Bool {
        pair[.guest].connectionCount == 0 && pair[.host].connectionCount == 0 && pair.flightCount == 0
            && !pair[.guest].hasControlPackets && !pair[.host].hasControlPackets
    }

    private mutating func start() {
        for side in Side.allCases {
            try? pair[side].listen(.stream, port: 1000, backlog: 64)
            try? pair[side].listen(.seqpacket, port: 2000, backlog: 64)
        }
        for index in options.conversations.indices {
            let conversation = options.conversations[index]
            let side = conversation.initiator
            let address = VsockAddress(
                cid: side == .guest ? .host : 3, port: conversation.type == .stream ? 1000 : 2000)
            let instant = pair.now
            let port = UInt32(50_000 + index)
            guard let id = try? pair[side].connect(conversation.type, to: address, from: port, now: instant) else {
                violations.append("conversation \(index) cannot start")
                continue
            }
            addSocket(side, index, id)
        }
    }

    /// One turn of everybody; whether anything happened.
    private mutating func playRound() -> Bool {
        roundCount += 1
        var hasProgressed = false
        for side in random.chance(percent: 50) ? [Side.guest, .host] : [.host, .guest] {
            while let expiry = pair.expire(side) {
                hasProgressed = true
                noteExpiry(side, expiry)
            }
            for _ in 0..<random.within(1...4) {
                guard let delivery = pair.deliver(to: side) else { break }
                hasProgressed = true
                note(side, delivery)
            }
            for index in sockets[side.rawValue].indices where isOpen(side, index) {
                if read(side, index) { hasProgressed = true }
                if finish(side, index) { hasProgressed = true }
            }
            if fetch(side) { hasProgressed = true }
        }
        return hasProgressed
    }

    private func isOpen(_ side: Side, _ index: Int) -> Bool {
        sockets[side.rawValue][index].map { $0.isConnected && !$0.isGone } ?? false
    }

    mutating func addSocket(_ side: Side, _ index: Int, _ id: ConnectionID) {
        let conversation = options.conversations[index]
        sockets[side.rawValue][index] = SimulatedSocket(
            id: id, type: conversation.type, framing: options.framing, outbox: conversation.outbox(side))
        conversations[side.rawValue][id] = index
    }
}
