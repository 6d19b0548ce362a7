// SPDX-License-Identifier: Apache-2.0
//
// Mistakes that a device might have, made on the packets that it hands out or takes: to show that a simulation finds
// them. The product has no code for this.

import VsockWire

/// A mistake of a device.
package enum Mutation: String, Sendable, CaseIterable {
    /// A CREDIT_UPDATE tells what the one before it told.
    case brokenCreditUpdate
    /// The last packet of a record does not say so.
    case lostEndOfMessage
    /// A connection that the guest has reset keeps its slot.
    case leakedSlot
}

/// Applies a mutation at the rings of one guest.
struct Mutator {
    let mutation: Mutation?
    private var lastForwarded: [UInt64: UInt32] = [:]
    private var eomCount = 0

    init(_ mutation: Mutation?) { self.mutation = mutation }

    /// A packet from the device, before anybody has seen it.
    mutating func fromDevice(_ header: inout PacketHeader) {
        switch mutation {
        case .brokenCreditUpdate? where header.operation == .creditUpdate:
            header.forwardedCount = lastForwarded[flow(header)] ?? 0
        case .brokenCreditUpdate?:
            lastForwarded[flow(header)] = header.forwardedCount
        case .lostEndOfMessage? where header.type == .seqpacket && header.operation == .readWrite:
            let endOfMessage = SequenceFlags.endOfMessage.rawValue
            if header.flags & endOfMessage != 0 {
                eomCount += 1
                if eomCount % 3 == 0 { header.flags &= ~endOfMessage }
            }
        default:
            break
        }
    }

    /// A packet to the device, after everybody has seen it; false when the device does not heed it.
    func heeds(_ header: PacketHeader) -> Bool { mutation != .leakedSlot || header.operation != .reset }

    private func flow(_ header: PacketHeader) -> UInt64 {
        UInt64(header.sourcePort) << 32 | UInt64(header.destinationPort)
    }
}
