// SPDX-License-Identifier: Apache-2.0
//
// The memory that holds the record of what a device has in flight: vhost-user.rst "Inflight I/O tracking". The monitor
// keeps its file, so that the record is there when this process has been killed and started again.

import VhostUser
import VirtioQueue
import VsockSystem

/// The record of a session's queues, mapped.
final class InflightMemory: Sendable {
    private let mapping: MemoryMapping
    private let area: InflightArea

    /// Bytes that the regions of an area's queues take.
    static func byteCount(_ area: InflightArea) -> Int {
        area.queueCount * InflightRegion.byteCount(queueSize: area.queueSize)
    }

    /// Maps what the monitor has kept. Throws as ``MemoryMapping`` does; EINVAL for an area without room for its queues.
    init(_ area: InflightArea, descriptor: Int32, loss: MemoryLoss) throws(SystemCallError) {
        guard let byteCount = Int(exactly: area.byteCount), byteCount >= Self.byteCount(area) else {
            throw SystemCallError(
                call: "mmap", errno: .invalidArgument,
                detail: "\(area.byteCount) bytes do not hold what is in flight on \(area.queueCount) queues")
        }
        mapping = try MemoryMapping(
            descriptor: descriptor, offset: area.mmapOffset, byteCount: Self.byteCount(area), loss: loss)
        self.area = area
    }

    /// The record of a queue; nil when the area has none for it, or lies askew.
    func region(_ queue: Int) -> InflightRegion? {
        guard queue < area.queueCount else { return nil }
        let offset = queue * InflightRegion.byteCount(queueSize: area.queueSize)
        return InflightRegion(base: mapping.base + offset, queueSize: area.queueSize)
    }
}

/// What a running queue needs to stay mapped.
final class QueueMemory: Sendable {
    private let memory: GuestMemory
    private let inflight: InflightMemory?

    init(_ memory: GuestMemory, _ inflight: InflightMemory?) {
        self.memory = memory
        self.inflight = inflight
    }
}
