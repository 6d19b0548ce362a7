// SPDX-License-Identifier: Apache-2.0
//
// Trace lines of every packet (Linux: the trace events virtio_transport_alloc_pkt and virtio_transport_recv_pkt).

import Logging
import Synchronization
import VsockWire

/// Logs every packet at level `trace`, by the name of Linux's trace event and in its format.
public final class PacketTraceLog: PacketTap {
    private let log: Logger
    private let tracer = Mutex(PacketTracer())

    /// Logs to `log`; nil when that does not log traces, so that packets are not looked at for nothing.
    public init?(_ log: Logger) {
        guard log.logLevel <= .trace else { return nil }
        self.log = log
    }

    public func packet(_ header: PacketHeader, _ payload: PacketPayload, isOutgoing: Bool) {
        let marker = SequenceHeader(header, payload: payload)
        let line = tracer.withLock { $0.line(header, marker: marker) }
        log.trace("\(isOutgoing ? "virtio_transport_alloc_pkt" : "virtio_transport_recv_pkt"): \(line)")
    }
}
