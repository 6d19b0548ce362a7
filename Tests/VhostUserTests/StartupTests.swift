// SPDX-License-Identifier: Apache-2.0
//
// A front-end against a back-end in memory: our own start-up, and the orders in which the front-ends in use go.

import Testing
import VhostUser

@Suite("Start-up orders")
struct StartupTests {
    static let offered: UInt64 = 1 << 32 | 1 << 29 | 1 << 28 | 1 << 1
    static let bit30 = ProtocolFeatures.virtioFeatureBit

    static func addresses(_ queue: Int) -> VringAddress {
        let base = MemoryRegion.low.userAddress + UInt64(queue) << 16
        return VringAddress(descriptorTable: base, usedRing: base + 0x2000, availableRing: base + 0x1000)
    }

    static func startup(queueCount: Int = 3) -> FrontendStartup {
        FrontendStartup(
            features: offered | 1 << 50, protocolFeatures: [.ofSocketDevice, .deviceState],
            configurationByteCount: 8, memory: [.low, .high],
            queues: (0..<queueCount).map { .init(size: 128, addresses: addresses($0), base: UInt16($0)) })
    }

    /// Drives the start-up to its end; the requests that were sent.
    static func run(
        _ startup: FrontendStartup, _ frontend: inout FrontendSession, _ backend: inout BackendSession
    ) throws -> [FrontendRequest] {
        var startup = startup
        var requests: [FrontendRequest] = []
        while let request = try startup.next(after: frontend) {
            requests.append(request)
            let reply = try exchange(request, &frontend, &backend)
            if case .getConfiguration = request { #expect(reply == .configuration(hex("0300000000000000"))) }
        }
        return requests
    }

    @discardableResult
    static func exchange(
        _ request: FrontendRequest, _ frontend: inout FrontendSession, _ backend: inout BackendSession,
        _ result: BackendResult = .success
    ) throws -> FrontendReply? {
        let message = frontend.send(request)
        let received = try backend.receive(message.bytes, descriptorCount: message.descriptorCount)
        let reply = backend.complete(received, result)
        #expect((reply != nil) == frontend.awaitsReply)
        guard let reply else { return nil }
        let body = payload(reply.bytes)
        return try frontend.receive(header(reply.bytes), payload: body.span.bytes, descriptorCount: 0)
    }

    @Test("our front-end brings a device up")
    func ownStartup() throws {
        var (frontend, backend) = (FrontendSession(), BackendSession.socketDevice())
        let requests = try Self.run(Self.startup(), &frontend, &backend)
        #expect(requests.count == 9 + 3 * 5 + 3)
        #expect(backend.queues.allSatisfy { $0.isRunning && $0.hasKick && $0.hasCall && $0.size == 128 })
        #expect(backend.queues.map(\.base) == [0, 1, 2])
        #expect(backend.queues[2].addresses == Self.addresses(2))
        #expect(backend.memoryRegions == [.low, .high] && backend.hasOwner && backend.hasBackendChannel)
        #expect(backend.features == Self.offered | Self.bit30 && frontend.features == backend.features)
        #expect(backend.protocolFeatures == .ofSocketDevice)
    }

    @Test("our front-end brings up a device that offers no protocol features")
    func withoutProtocolFeatures() throws {
        var (frontend, backend) = (FrontendSession(), BackendSession.socketDevice([]))
        _ = try Self.run(Self.startup(), &frontend, &backend)
        #expect(backend.queues.allSatisfy { $0.isRunning })
        #expect(!backend.hasBackendChannel && frontend.protocolFeatures.isEmpty)
    }

    @Test("a back-end with too few queues is found out")
    func tooFewQueues() {
        var (frontend, backend) = (FrontendSession(), BackendSession.socketDevice())
        #expect(throws: VhostUserError.tooFewQueues(needed: 4, offered: 3)) {
            try Self.run(Self.startup(queueCount: 4), &frontend, &backend)
        }
    }

    @Test("the device stops with its indices and starts again from them")
    func stopAndStart() throws {
        var (frontend, backend) = (FrontendSession(), BackendSession.socketDevice())
        _ = try Self.run(Self.startup(), &frontend, &backend)
        for queue in 0..<3 {
            let base = UInt16(65534 + queue % 2)
            let reply = try Self.exchange(.getQueueBase(queue: queue), &frontend, &backend, .queueBase(base))
            #expect(reply == .queueBase(queue: queue, base))
        }
        #expect(backend.isSuspended)
        for queue in 0..<3 { try Self.exchange(.setKick(queue: queue, hasDescriptor: true), &frontend, &backend) }
        #expect(backend.queues.allSatisfy { $0.isRunning })
    }

    @Test("a failure reaches the front-end by name")
    func failure() throws {
        var (frontend, backend) = (FrontendSession(), BackendSession.socketDevice())
        _ = try Self.run(Self.startup(), &frontend, &backend)
        #expect(throws: VhostUserError.requestFailed(.setMemoryTable, code: 1)) {
            try Self.exchange(.setMemoryTable([.low]), &frontend, &backend, .failure)
        }
        #expect(backend.memoryRegions == [.low, .high])
        #expect(!frontend.awaitsReply)
    }

    // As recorded from QEMU 7.2 with a Linux 6.12 guest that loads its driver twice.
    @Test("QEMU: two queues, call descriptors before anything else, status 8 only, rings enabled last")
    func qemu() throws {
        var backend = BackendSession.socketDevice()
        try backend.handle(.getFeatures)
        try backend.handle(.getProtocolFeatures)
        #expect(try backend.handle(.setProtocolFeatures(.ofSocketDevice)) == nil)
        try backend.handle(.getQueueCount)
        try backend.handle(.getMaxMemorySlots)
        #expect(try backend.handle(.setBackendChannel, needsReply: true) != nil)
        try backend.handle(.setOwner)
        try backend.handle(.getFeatures)
        for queue in 0..<2 {
            try backend.handle(.setCall(queue: queue, hasDescriptor: true))
            try backend.handle(.setError(queue: queue, hasDescriptor: true))
        }
        try backend.handle(.getConfiguration(offset: 0, byteCount: 8))
        #expect(backend.isSuspended)
        for load in 0..<2 {
            for queue in [1, 0] { try backend.handle(.setCall(queue: queue, hasDescriptor: true)) }
            #expect(try backend.handle(.setFeatures(Self.offered | Self.bit30)) == nil)
            try backend.handle(.getStatus)
            if load == 0 {
                try backend.handle(.setStatus(8))
                for region in [MemoryRegion.low, .high] {
                    #expect(try backend.handle(.addMemoryRegion(region), needsReply: true) != nil)
                }
            }
            for queue in 0..<2 {
                try backend.handle(.setQueueSize(queue: queue, size: 128))
                try backend.handle(.setQueueBase(queue: queue, 0))
                try backend.handle(.setQueueAddresses(queue: queue, Self.addresses(queue)))
                try backend.handle(.setKick(queue: queue, hasDescriptor: true))
            }
            #expect(backend.queues.allSatisfy { !$0.isRunning })
            for queue in 0..<2 { try backend.handle(.setQueueEnabled(queue: queue, true)) }
            for queue in 0..<2 { try backend.handle(.setCall(queue: queue, hasDescriptor: true)) }
            #expect(backend.queues.map(\.isRunning) == [true, true, false])
            #expect(backend.memoryRegions == [.low, .high])
            for queue in 0..<2 { try backend.handle(.setQueueEnabled(queue: queue, false)) }
            for queue in 0..<2 { try backend.handle(.getQueueBase(queue: queue), .queueBase(99)) }
            #expect(backend.isSuspended && backend.queues[0].base == 99)
        }
    }

    @Test("a front-end without memory slots sends tables, and resets by status 0")
    func tablesAndStatusReset() throws {
        var backend = BackendSession.socketDevice()
        for _ in 0..<2 {
            try backend.handle(.setFeatures(Self.offered | Self.bit30))
            try backend.handle(.setMemoryTable([.low, .high]))
            try backend.handle(.setQueueSize(queue: 0, size: 128))
            try backend.handle(.setQueueBase(queue: 0, 0))
            try backend.handle(.setQueueAddresses(queue: 0, Self.addresses(0)))
            try backend.handle(.setKick(queue: 0, hasDescriptor: true))
            #expect(!backend.queues[0].isRunning)
            try backend.handle(.setQueueEnabled(queue: 0, true))
            try backend.handle(.setStatus(15))
            #expect(backend.queues[0].isRunning)
            try backend.handle(.getQueueBase(queue: 0), .queueBase(99))
            try backend.handle(.setStatus(0))
            #expect(backend.isSuspended && !backend.queues[0].isEnabled && backend.queues[0].base == 0)
        }
    }

    @Test("User Mode Linux: need_reply everywhere, and a driver that is loaded twice")
    func userModeLinux() throws {
        var backend = BackendSession.socketDevice()
        try backend.handle(.setOwner)
        try backend.handle(.getFeatures)
        try backend.handle(.getProtocolFeatures)
        let accepted: ProtocolFeatures = [.multipleQueues, .replyAck, .backendRequests, .config]
        #expect(try backend.handle(.setProtocolFeatures(accepted), needsReply: true) != nil)
        #expect(try backend.handle(.setBackendChannel, needsReply: true) != nil)
        try backend.handle(.getConfiguration(offset: 0, byteCount: 8))
        for _ in 0..<2 {
            #expect(try backend.handle(.setFeatures(Self.offered | Self.bit30), needsReply: true) != nil)
            var table = FrontendRequest.setMemoryTable([.low]).message(needsReply: true).bytes
            table += [UInt8](repeating: 0, count: 32)
            table[8] = 72
            #expect(try backend.handle(bytes: table, descriptorCount: 1) != nil)
            for queue in 0..<3 {
                var address = Self.addresses(queue)
                address.logGuestAddress = .max
                #expect(try backend.handle(.setCall(queue: queue, hasDescriptor: true), needsReply: true) != nil)
                #expect(try backend.handle(.setQueueSize(queue: queue, size: 256), needsReply: true) != nil)
                #expect(try backend.handle(.setQueueBase(queue: queue, 0), needsReply: true) != nil)
                #expect(try backend.handle(.setQueueAddresses(queue: queue, address), needsReply: true) != nil)
                #expect(!backend.queues[queue].isStarted)
            }
            for queue in 0..<3 {
                #expect(try backend.handle(.setKick(queue: queue, hasDescriptor: true), needsReply: true) != nil)
                #expect(try backend.handle(.setQueueEnabled(queue: queue, true), needsReply: true) != nil)
            }
            #expect(backend.queues.allSatisfy { $0.isRunning })
            for queue in (0..<3).reversed() { try backend.handle(.setQueueEnabled(queue: queue, false)) }
            try backend.handle(.getFeatures)
            #expect(backend.queues.allSatisfy { $0.isStarted && !$0.isRunning })
        }
    }

    @Test("Cloud Hypervisor: addresses before base, need_reply once accepted, rings enabled after each kick")
    func cloudHypervisor() throws {
        var backend = BackendSession.socketDevice()
        try backend.handle(.setOwner)
        try backend.handle(.getFeatures)
        try backend.handle(.getProtocolFeatures)
        let accepted: ProtocolFeatures = [
            .config, .multipleQueues, .configureMemorySlots, .replyAck, .backendRequests,
        ]
        try backend.handle(.setProtocolFeatures(accepted))
        try backend.handle(.getQueueCount)
        try backend.handle(.setFeatures(Self.offered & ~2 | Self.bit30), needsReply: true)
        try backend.handle(.getConfiguration(offset: 0, byteCount: 8), needsReply: true)
        try backend.handle(.setMemoryTable([.low, .high]), needsReply: true)
        for queue in 0..<3 {
            try backend.handle(.setQueueSize(queue: queue, size: 256), needsReply: true)
            try backend.handle(.setQueueAddresses(queue: queue, Self.addresses(queue)), needsReply: true)
            try backend.handle(.setQueueBase(queue: queue, 0), needsReply: true)
            try backend.handle(.setCall(queue: queue, hasDescriptor: true), needsReply: true)
            #expect(try backend.handle(.setKick(queue: queue, hasDescriptor: true), needsReply: true) != nil)
        }
        for queue in 0..<3 { try backend.handle(.setQueueEnabled(queue: queue, true), needsReply: true) }
        try backend.handle(.setBackendChannel, needsReply: true)
        #expect(backend.queues.allSatisfy { $0.isRunning })
        #expect(backend.message(for: .configurationChanged) != nil)
    }

    @Test("crosvm: each ring is enabled as soon as it is started, need_reply never")
    func crosvm() throws {
        var backend = BackendSession.socketDevice()
        try backend.handle(.setOwner)
        try backend.handle(.getFeatures)
        try backend.handle(.setFeatures(Self.bit30))
        try backend.handle(.getProtocolFeatures)
        try backend.handle(.setProtocolFeatures([.config, .multipleQueues, .backendRequests, .replyAck]))
        try backend.handle(.setBackendChannel)
        try backend.handle(.getQueueCount)
        try backend.handle(.getConfiguration(offset: 0, byteCount: 8))
        #expect(try backend.handle(.setFeatures(1 << 32 | 1 << 29 | 1 << 1 | Self.bit30)) == nil)
        try backend.handle(.setMemoryTable([.low, .high]))
        for queue in 0..<3 {
            try backend.handle(.setQueueSize(queue: queue, size: 256))
            try backend.handle(.setQueueAddresses(queue: queue, Self.addresses(queue)))
            try backend.handle(.setQueueBase(queue: queue, 0))
            try backend.handle(.setCall(queue: queue, hasDescriptor: true))
            try backend.handle(.setKick(queue: queue, hasDescriptor: true))
            try backend.handle(.setQueueEnabled(queue: queue, true))
            #expect(backend.queues[queue].isRunning)
        }
    }
}
