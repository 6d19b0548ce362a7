// SPDX-License-Identifier: Apache-2.0
//
// The packets of the demonstration's first records, as they cross the device's queues.

import Synchronization
import VsockTransport
import VsockWire

/// Shows the packets of the connection to ``DemoTraffic/recordPort`` until two records have gone there and back.
final class DemoTrace: PacketTap {
    private struct State {
        var tracer = PacketTracer()
        var remainingRecordCount = 4
    }

    private let state = Mutex(State())

    func packet(_ header: PacketHeader, _ payload: PacketPayload, isOutgoing: Bool) {
        guard header.sourcePort == DemoTraffic.recordPort || header.destinationPort == DemoTraffic.recordPort else {
            return
        }
        let marker = SequenceHeader(header, payload: payload)
        state.withLock { state in
            guard state.remainingRecordCount > 0 else { return }
            Console.say("packet: \(state.tracer.line(header, marker: marker))")
            if Self.endsRecord(header) { state.remainingRecordCount -= 1 }
        }
    }

    /// SEQ_END in the framing of RFC v5, whose RW packets have a flag only for MSG_EOR, which nobody uses here; a flag in
    /// the standard one.
    private static func endsRecord(_ header: PacketHeader) -> Bool {
        header.operation == .sequenceEnd
            || (header.operation == .readWrite && SequenceFlags(rawValue: header.flags).contains(.endOfMessage))
    }
}
