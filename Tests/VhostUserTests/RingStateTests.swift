// SPDX-License-Identifier: Apache-2.0
//
// vhost-user.rst "Ring states", "Suspended device state", and what resets do to them.

import Testing
import VhostUser

@Suite("Ring states")
struct RingStateTests {
    static let bit30 = ProtocolFeatures.virtioFeatureBit
    static let addresses = VringAddress(descriptorTable: 0x1000, usedRing: 0x2000, availableRing: 0x3000)

    /// A device whose ring 0 is set up, started and, with bit 30, not yet enabled.
    static func started(features: UInt64 = bit30) throws -> BackendSession {
        var session = BackendSession.socketDevice()
        try session.handle(.setFeatures(features))
        try session.handle(.setQueueSize(queue: 0, size: 256))
        try session.handle(.setQueueBase(queue: 0, 7))
        try session.handle(.setQueueAddresses(queue: 0, addresses))
        try session.handle(.setCall(queue: 0, hasDescriptor: true))
        try session.handle(.setKick(queue: 0, hasDescriptor: true))
        return session
    }

    @Test("rings begin stopped and disabled, and the device suspended")
    func initially() {
        let session = BackendSession.socketDevice()
        #expect(session.queues == [VringState(), VringState(), VringState()])
        #expect(session.queues.allSatisfy { !$0.isStarted && !$0.isEnabled && !$0.isRunning })
        #expect(session.isSuspended)
    }

    @Test("SET_FEATURES without bit 30 enables all rings at once")
    func enabledWithoutProtocolFeatures() throws {
        var session = BackendSession.socketDevice()
        try session.handle(.setFeatures(1 << 32))
        #expect(session.queues.allSatisfy { $0.isEnabled })
        #expect(!session.ringsAwaitEnable)
        #expect(try Self.started(features: 0).queues[0].isRunning)
    }

    @Test("with bit 30 a started ring stays disabled until SET_VRING_ENABLE")
    func enabledByRequest() throws {
        var session = try Self.started()
        #expect(session.ringsAwaitEnable)
        #expect(session.queues[0].isStarted && !session.queues[0].isEnabled && !session.queues[0].isRunning)
        #expect(!session.isSuspended)
        try session.handle(.setQueueEnabled(queue: 0, true))
        #expect(session.queues[0].isRunning)
        #expect(!session.queues[1].isEnabled)
        try session.handle(.setQueueEnabled(queue: 0, false))
        #expect(session.queues[0].isStarted && !session.queues[0].isEnabled)
    }

    @Test("enabling is remembered while the ring is stopped")
    func enabledBeforeStart() throws {
        var session = BackendSession.socketDevice()
        try session.handle(.setFeatures(Self.bit30))
        try session.handle(.setQueueEnabled(queue: 2, true))
        #expect(session.queues[2].isEnabled && !session.queues[2].isStarted)
        #expect(session.isSuspended)
    }

    @Test("a later SET_FEATURES with bit 30 leaves enabled rings enabled")
    func featuresAgain() throws {
        var session = try Self.started()
        try session.handle(.setQueueEnabled(queue: 0, true))
        try session.handle(.setFeatures(Self.bit30 | 1 << 32))
        #expect(session.queues[0].isRunning)
    }

    @Test("a kick descriptor starts the ring, and so does the lack of one, which means polling")
    func startedByKick() throws {
        for hasDescriptor in [false, true] {
            var session = BackendSession.socketDevice()
            try session.handle(.setKick(queue: 1, hasDescriptor: hasDescriptor))
            #expect(session.queues[1].isStarted)
            #expect(session.queues[1].hasKick == hasDescriptor)
            #expect(!session.queues[1].isConfigured)
        }
    }

    @Test("the in-band kick starts the ring")
    func startedInBand() throws {
        var session = BackendSession.socketDevice([.replyAck, .backendRequests, .inbandNotifications])
        #expect(try session.receive(.kick(queue: 1)).action == .kick(queue: 1))
        try session.handle(.kick(queue: 1))
        #expect(session.queues[1].isStarted)
    }

    @Test("GET_VRING_BASE stops the ring, keeps it enabled, and reports the index")
    func stopped() throws {
        var session = try Self.started()
        try session.handle(.setQueueEnabled(queue: 0, true))
        let reply = try session.handle(.getQueueBase(queue: 0), .queueBase(0xffff))
        #expect(reply == hex("0b000000 05000000 08000000 00000000 ffff0000"))
        #expect(!session.queues[0].isStarted && session.queues[0].isEnabled && !session.queues[0].hasKick)
        #expect(session.queues[0].hasCall)
        #expect(session.queues[0].base == 0xffff && session.queues[0].size == 256)
        #expect(session.isSuspended)
        try session.handle(.setKick(queue: 0, hasDescriptor: true))
        #expect(session.queues[0].isRunning)
    }

    @Test("GET_VRING_BASE of a ring that never ran reports the base that was set")
    func stoppedBeforeStart() throws {
        var session = BackendSession.socketDevice()
        try session.handle(.setQueueBase(queue: 1, 42))
        let expected = hex("0b000000 05000000 08000000 01000000 2a000000")
        #expect(try session.handle(.getQueueBase(queue: 1)) == expected)
        #expect(try session.handle(.getQueueBase(queue: 1), .failure) == expected)
    }

    @Test("a ring that was set up stops when its size or base is set again")
    func setUpAnew() throws {
        for request in [FrontendRequest.setQueueSize(queue: 0, size: 128), .setQueueBase(queue: 0, 0)] {
            var session = try Self.started()
            try session.handle(request)
            #expect(!session.queues[0].isStarted && !session.queues[0].hasKick && session.queues[0].isConfigured)
        }
    }

    @Test("new addresses do not stop a running ring")
    func newAddresses() throws {
        var session = try Self.started(features: 0)
        var logged = Self.addresses
        logged.logsUsedRing = true
        try session.handle(.setQueueAddresses(queue: 0, logged))
        #expect(session.queues[0].isRunning && session.queues[0].addresses == logged)
    }

    @Test("a kick that comes before the ring is complete is not forgotten")
    func earlyKick() throws {
        var session = BackendSession.socketDevice()
        try session.handle(.setFeatures(0))
        try session.handle(.setKick(queue: 0, hasDescriptor: true))
        try session.handle(.setQueueSize(queue: 0, size: 64))
        try session.handle(.setQueueBase(queue: 0, 0))
        #expect(!session.queues[0].isRunning)
        try session.handle(.setQueueAddresses(queue: 0, Self.addresses))
        #expect(session.queues[0].isRunning)
    }

    @Test("call and error descriptors come and go")
    func callAndError() throws {
        var session = try Self.started()
        try session.handle(.setError(queue: 0, hasDescriptor: true))
        #expect(session.queues[0].hasCall && session.queues[0].hasError)
        try session.handle(.setCall(queue: 0, hasDescriptor: false))
        try session.handle(.setError(queue: 0, hasDescriptor: false))
        #expect(!session.queues[0].hasCall && !session.queues[0].hasError)
        #expect(session.queues[0].isStarted)
    }

    @Test("RESET_OWNER disables all rings and keeps the rest")
    func resetOwner() throws {
        var session = try Self.started(features: 0)
        try session.handle(.setMemoryTable([.low]))
        try session.handle(.resetOwner)
        #expect(session.queues.allSatisfy { !$0.isEnabled })
        #expect(session.queues[0].isStarted && session.memoryRegions == [.low])
    }

    @Test("RESET_DEVICE and status 0 stop and disable the rings, and keep memory, channel and protocol features")
    func resets() throws {
        for request in [FrontendRequest.resetDevice, .setStatus(0)] {
            var session = try Self.started(features: 1 << 32)
            try session.handle(.setProtocolFeatures(.ofSocketDevice))
            try session.handle(.setMemoryTable([.low]))
            try session.handle(.setBackendChannel)
            try session.handle(.setStatus(15))
            #expect(session.status == 15)
            try session.handle(request)
            #expect(session.isSuspended && session.queues.allSatisfy { !$0.isEnabled && !$0.isConfigured })
            #expect(session.features == 0 && session.status == 0)
            #expect(session.queues[0].hasCall && !session.queues[0].hasKick && session.queues[0].base == 0)
            #expect(session.memoryRegions == [.low] && session.hasBackendChannel)
            #expect(session.protocolFeatures == .ofSocketDevice)
        }
    }

    @Test("a failure changes no state")
    func failure() throws {
        var session = try Self.started()
        let before = session.queues
        let requests: [FrontendRequest] = [
            .setQueueSize(queue: 0, size: 8), .setQueueBase(queue: 0, 1), .setKick(queue: 1, hasDescriptor: true),
            .setQueueEnabled(queue: 0, true), .resetDevice, .setMemoryTable([.low]), .setFeatures(0),
            .addMemoryRegion(.low), .setBackendChannel, .setStatus(4),
        ]
        for request in requests { #expect(try session.handle(request, .failure) == nil) }
        #expect(session.queues == before && session.features == Self.bit30 && session.memoryRegions.isEmpty)
        #expect(!session.hasBackendChannel && session.status == 0)
    }
}
