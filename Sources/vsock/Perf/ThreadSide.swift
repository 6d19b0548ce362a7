// SPDX-License-Identifier: Apache-2.0
//
// What sides have in common whose connections are all served by the one thread that runs them.

import VsockSystem

/// See the top of the file.
class ThreadSide: @unchecked Sendable {
    // Unchecked: belongs to the thread that runs it.

    /// Messages that a connection sends before the next has its turn.
    static let turnMessageCount = 32

    final let plan: PerfPlan
    /// What is sent, again and again.
    final let message: UnsafeRawBufferPointer
    /// Where goes what comes.
    final let buffer: UnsafeMutableRawBufferPointer
    @exclusivity(unchecked) final private(set) var role = PerfRole.receive
    @exclusivity(unchecked) final var meter: PerfMeter
    @exclusivity(unchecked) final var quota: PerfQuota

    init(_ plan: PerfPlan, bufferByteCount: Int) {
        self.plan = plan
        let message = UnsafeMutableRawBufferPointer.allocate(byteCount: plan.messageByteCount, alignment: 4096)
        message.initializeMemory(as: UInt8.self, repeating: 0x5a)
        self.message = UnsafeRawBufferPointer(message)
        buffer = .allocate(byteCount: bufferByteCount, alignment: 4096)
        meter = PerfMeter(connectionCount: 0, measuresRoundTrips: false)
        quota = PerfQuota(plan.limit, start: 0)
    }

    deinit {
        message.deallocate()
        buffer.deallocate()
    }

    /// Time and quota begin.
    final func begin(_ role: PerfRole) {
        self.role = role
        meter = PerfMeter(
            connectionCount: plan.connectionCount, measuresRoundTrips: role == .ask, progress: plan.progress)
        quota = PerfQuota(plan.limit, start: meter.start)
    }
}
