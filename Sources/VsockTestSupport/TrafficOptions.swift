// SPDX-License-Identifier: Apache-2.0
//
// What a simulated run is like. A seed draws all of it, so that runs differ in kind and not only in detail.

import VsockCore
import VsockWire

/// The conditions of a ``TrafficSimulation``.
public struct TrafficOptions: Sendable {
    /// How conversations end.
    public enum Ending: Sendable, CaseIterable {
        /// Each side shuts down its sending direction when it has sent all, and closes when the peer has, too.
        case orderly
        /// One side closes at some moment.
        case earlyClose
        /// One side aborts at some moment.
        case earlyAbort
    }

    /// One connection: who asks for it, and what crosses.
    public struct Conversation: Sendable {
        /// Who connects.
        public var initiator: Side
        /// The socket type.
        public var type: SocketType
        /// What the guest sends.
        public var fromGuest: [Message]
        /// What the host sends.
        public var fromHost: [Message]
        /// How it ends.
        public var ending: Ending
        /// Who ends it early, and in which round.
        public var ender: Side
        /// See `ender`.
        public var endingRound: Int

        /// A conversation that ends in order.
        public init(initiator: Side, type: SocketType, fromGuest: [Message], fromHost: [Message]) {
            self.initiator = initiator
            self.type = type
            self.fromGuest = fromGuest
            self.fromHost = fromHost
            ending = .orderly
            ender = .guest
            endingRound = 0
        }

        /// What a side sends.
        public func outbox(_ side: Side) -> [Message] { side == .guest ? fromGuest : fromHost }
    }

    /// How records are marked.
    public var framing = RecordFraming.standard
    /// Receive buffers of the guest's and the host's connections.
    public var guestBufferByteCount: UInt32 = 4096
    /// See `guestBufferByteCount`.
    public var hostBufferByteCount: UInt32 = 4096
    /// Room for payload in one packet.
    public var capacities = 64...4096
    /// Longest time that a packet is on its way.
    public var maximumLatency = 0
    /// How often a reader reads when it could, in percent.
    public var readerDiligence = 100
    /// Whether a reader takes all it can or a random part of that.
    public var readsAll = false
    /// Whether CREDIT_REQUEST is swallowed on the way.
    public var losesCreditRequests = false
    /// The connections.
    public var conversations: [Conversation] = []

    /// Friendly conditions and no conversations.
    public init() {}

    /// Receive buffer of the connections of a side.
    public func bufferByteCount(_ side: Side) -> UInt32 { side == .guest ? guestBufferByteCount : hostBufferByteCount }

    /// Conditions drawn from a source of random numbers.
    public static func drawn(using random: inout PRNG) -> TrafficOptions {
        var options = TrafficOptions()
        options.framing = random.chance(percent: 50) ? .standard : .rfcV5
        let sizes: [UInt32] = [16, 33, 64, 100, 256, 1000, 4096, 20_000]
        options.guestBufferByteCount = random.pick(sizes)
        options.hostBufferByteCount = random.pick(sizes)
        // A marker is never split: a carrier of the rfc-v5 framing has room for one.
        let smallest = options.framing == .rfcV5 ? [8, 50, 500, 3732] : [1, 8, 50, 500, 3732]
        let lower = random.pick(smallest)
        options.capacities = lower...(lower * random.within(1...4))
        options.maximumLatency = random.pick([0, 1, 5, 20])
        options.readerDiligence = random.pick([100, 70, 20])
        options.readsAll = random.chance(percent: 30)
        for _ in 0..<random.within(1...3) { options.conversations.append(conversation(options, using: &random)) }
        return options
    }

    private static func conversation(_ options: TrafficOptions, using random: inout PRNG) -> Conversation {
        let type: SocketType = random.chance(percent: 35) ? .stream : .seqpacket
        var conversation = Conversation(
            initiator: random.pick(Side.allCases), type: type,
            fromGuest: outbox(options, type, to: .host, using: &random),
            fromHost: outbox(options, type, to: .guest, using: &random))
        if random.chance(percent: 25) {
            conversation.ending = random.chance(percent: 50) ? .earlyClose : .earlyAbort
            conversation.ender = random.pick(Side.allCases)
            conversation.endingRound = random.below(60)
        }
        return conversation
    }

    private static func outbox(
        _ options: TrafficOptions, _ type: SocketType, to receiver: Side, using random: inout PRNG
    ) -> [Message] {
        let buffer = Int(options.bufferByteCount(receiver))
        // Bounded by packets as well, to keep a run short.
        var budget = random.below(min(3 * buffer, 24 * options.capacities.lowerBound) + 1)
        if type == .stream { return budget == 0 ? [] : [Message(random.bytes(budget))] }
        var messages: [Message] = []
        while budget > 0, messages.count < 16 {
            let largest = options.framing == .standard ? min(buffer, budget) : budget
            // The largest record that fits and an empty one are the interesting cases.
            var byteCount = random.chance(percent: 20) ? largest : random.within(1...largest)
            if options.framing == .rfcV5, random.chance(percent: 10) { byteCount = 0 }
            budget -= max(1, byteCount)
            // The rfc-v5 framing marks the end of a record on its RW packets: an empty one has none.
            let endOfRecord = random.chance(percent: 30) && byteCount > 0
            messages.append(Message(random.bytes(byteCount), endOfRecord: endOfRecord))
        }
        return messages
    }
}

extension PRNG {
    /// Random bytes.
    public mutating func bytes(_ count: Int) -> [UInt8] {
        var state = next() | 1
        return [UInt8](unsafeUninitializedCapacity: count) { buffer, initializedCount in
            for index in 0..<count {
                state = state &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
                buffer[index] = UInt8(truncatingIfNeeded: state >> 56)
            }
            initializedCount = count
        }
    }
}
