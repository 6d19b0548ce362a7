// SPDX-License-Identifier: Apache-2.0
//
// Credit as an onlooker at the rings sees it, in plain 64-bit numbers: nobody sends more than the other has promised to
// hold, nobody claims to have consumed what was not sent, nobody takes consumption back. It shares no code with the
// account of the core.

import VsockWire

/// The checker of one guest's connections.
struct CreditLedger {
    private struct Flow: Hashable {
        var peerCID: UInt64
        var guestPort: UInt32
        var peerPort: UInt32
    }

    private struct Side {
        /// Payload bytes that it has sent.
        var sent = 0
        /// What it has said of its buffer: the most that it promised, and how much it has consumed.
        var promised = 0
        var forwarded = 0
    }

    private var flows: [Flow: (guest: Side, device: Side)] = [:]

    /// Forgets everything: the guest's connections are gone.
    mutating func reset() { flows = [:] }

    /// Looks at a packet; what is wrong with it.
    mutating func check(_ header: PacketHeader, fromGuest: Bool) -> String? {
        let flow =
            fromGuest
            ? Flow(
                peerCID: header.destinationCID, guestPort: header.sourcePort, peerPort: header.destinationPort)
            : Flow(peerCID: header.sourceCID, guestPort: header.destinationPort, peerPort: header.sourcePort)
        // A connection lives from its request to the first reset; what crosses that counts no more.
        if header.operation == .reset { flows[flow] = nil }
        if header.operation == .request { flows[flow] = (Side(), Side()) }
        guard flows[flow] != nil else { return nil }
        var (sender, receiver) = sides(flow, fromGuest)
        sender.promised = max(sender.promised, Int(header.bufferAllocation))
        // Counters wrap in 32 bits; no simulated connection carries so much.
        let forwarded = Int(header.forwardedCount)
        defer { store(flow, fromGuest, sender, receiver) }
        let name = fromGuest ? "the guest" : "the device"
        guard forwarded >= sender.forwarded else {
            return "\(name) takes credit back: \(forwarded) bytes consumed after \(sender.forwarded)"
        }
        sender.forwarded = forwarded
        guard forwarded <= receiver.sent else {
            return "\(name) has consumed \(forwarded) bytes of \(receiver.sent) that were sent"
        }
        sender.sent += Int(header.payloadByteCount)
        let held = sender.sent - receiver.forwarded
        guard held <= receiver.promised || header.payloadByteCount == 0 else {
            return "\(name) has \(held) bytes out, the other holds \(receiver.promised)"
        }
        return nil
    }

    private func sides(_ flow: Flow, _ fromGuest: Bool) -> (sender: Side, receiver: Side) {
        let both = flows[flow] ?? (Side(), Side())
        return fromGuest ? (both.guest, both.device) : (both.device, both.guest)
    }

    private mutating func store(_ flow: Flow, _ fromGuest: Bool, _ sender: Side, _ receiver: Side) {
        flows[flow] = fromGuest ? (sender, receiver) : (receiver, sender)
    }
}
