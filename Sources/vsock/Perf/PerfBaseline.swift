// SPDX-License-Identifier: Apache-2.0

import ArgumentParser
import VsockSystem

/// What the transports are compared with.
enum PerfBaseline: String, CaseIterable, ExpressibleByArgument {
    /// Plain Unix sockets between two processes.
    case unix
    /// Plain Unix sockets between two threads.
    case unixThreads = "unix-threads"
    /// Messages copied by one thread into the slots of a ring like a driver's.
    case memoryCopy = "memory-copy"

    /// Entries of the ring, as many as a driver has.
    private static let slotCount = 256

    /// Copies messages until the limit.
    static func copyMessages(_ plan: PerfPlan) -> PerfMeter {
        let message = UnsafeMutableRawBufferPointer.allocate(byteCount: plan.messageByteCount, alignment: 4096)
        let ring = UnsafeMutableRawBufferPointer.allocate(
            byteCount: plan.messageByteCount * slotCount, alignment: 4096)
        defer {
            message.deallocate()
            ring.deallocate()
        }
        message.initializeMemory(as: UInt8.self, repeating: 0x5a)
        ring.initializeMemory(as: UInt8.self, repeating: 0)
        var meter = PerfMeter(connectionCount: 1, measuresRoundTrips: false)
        var quota = PerfQuota(plan.limit, start: meter.start)
        while quota.allowsMessage(at: MonotonicClock.now()) {
            for slot in 0..<slotCount {
                let start = slot * plan.messageByteCount
                UnsafeMutableRawBufferPointer(rebasing: ring[start..<(start + plan.messageByteCount)]).copyMemory(
                    from: UnsafeRawBufferPointer(message))
            }
            quota.take(plan.messageByteCount * slotCount)
            meter.sentByteCount += UInt64(plan.messageByteCount * slotCount)
        }
        meter.end = MonotonicClock.now()
        return meter
    }
}
