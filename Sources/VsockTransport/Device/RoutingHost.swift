// SPDX-License-Identifier: Apache-2.0
//
// All that one guest can reach: its host at context ID 2, and its siblings at theirs. A packet to anyone else goes to
// the host, which refuses it.

import VirtioQueue
import VsockCore
import VsockWire

/// Splits a device's traffic by destination.
final class RoutingHost: DeviceHost {
    /// The host proper.
    let host: any DeviceHost
    /// The other guests.
    let siblings: SiblingHost
    /// Who fills the guest's buffers first: they take turns when there are too few, so that neither starves.
    private var servesSiblingsFirst = false

    init(host: any DeviceHost, siblings: SiblingHost) {
        self.host = host
        self.siblings = siblings
    }

    weak var carrier: LoopTask? {
        didSet {
            host.carrier = carrier
            siblings.carrier = carrier
        }
    }

    var isDriverReady = false {
        didSet {
            host.isDriverReady = isDriverReady
            siblings.isDriverReady = isDriverReady
        }
    }

    var socketEntries: [SocketEntry] { host.socketEntries + siblings.socketEntries }

    var canReceive: Bool { host.canReceive && siblings.canReceive }

    var nextDeadline: Instant? { Instant.earliest(host.nextDeadline, siblings.nextDeadline) }

    var hasOutput: Bool { host.hasOutput || siblings.hasOutput }

    func exclusively<Result>(_ body: () -> Result) -> Result { body() }

    func receive(
        _ header: PacketHeader, marker: SequenceHeader?, payload: Range<Int>, in segments: borrowing SegmentList
    ) {
        if header.destinationCID == UInt64(VsockAddress.ContextID.host.rawValue)
            || siblings.route(to: header.destinationCID) == nil
        {
            host.receive(header, marker: marker, payload: payload, in: segments)
        } else {
            siblings.receive(header, marker: marker, payload: payload, in: segments)
        }
    }

    func returnCreditEarly(into buffers: GuestBuffers) throws(VirtqueueError) {
        try host.returnCreditEarly(into: buffers)
    }

    func flush() {
        host.flush()
        siblings.flush()
    }

    func transmit(into buffers: GuestBuffers) throws(VirtqueueError) -> Bool {
        let first: any DeviceHost = servesSiblingsFirst ? siblings : host
        let second: any DeviceHost = servesSiblingsFirst ? host : siblings
        var isStarved = try first.transmit(into: buffers)
        if !isStarved { isStarved = try second.transmit(into: buffers) }
        if isStarved { servesSiblingsFirst.toggle() }
        return isStarved
    }

    func restart(framing: RecordFraming) {
        host.restart(framing: framing)
        siblings.restart(framing: framing)
    }

    func resetConnections() {
        host.resetConnections()
        siblings.resetConnections()
    }

    func expire() {
        host.expire()
        siblings.expire()
    }
}
