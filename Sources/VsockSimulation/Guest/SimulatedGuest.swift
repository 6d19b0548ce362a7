// SPDX-License-Identifier: Apache-2.0
//
// One VM's guest: the protocol core as its kernel, two rings, and programs that hold the conversations. It looks at a
// ring when the device has called, gives its buffers back late if it is lazy, and forgets everything when it reboots.
//
// Files: +Packets is its driver, +Programs what its programs do.

import VirtioQueue
import VsockCore
import VsockTestSupport
import VsockTransport
import VsockWire

/// How a guest is.
struct GuestOptions {
    var cid: UInt32 = 3
    var framing = RecordFraming.standard
    var bufferByteCount: UInt32 = 4096
    var rings = RingOptions()
    /// Sends packets and chains that make no sense, besides its own.
    var isHostile = false
}

/// What a guest tells the simulation.
protocol GuestObserver: AnyObject {
    var now: Instant { get }
    /// A packet has crossed a ring.
    func packetCrossed(_ header: PacketHeader, _ guest: SimulatedGuest, fromGuest: Bool)
    /// Something is wrong.
    func violation(_ text: String)
    /// A queue of the guest has news for the device.
    func kick(_ guest: SimulatedGuest, queue: Int)
}

/// A program's end of a connection in the guest.
final class GuestSocket {
    let id: ConnectionID
    let conversation: Conversation
    let end: TrafficEnd
    var isConnected: Bool
    /// Bytes that may be consumed, and bytes of a record that goes on.
    var consumableByteCount = 0
    var heldByteCount = 0
    var isBlocked = false
    var isRecordStarted = false
    var peerShutdown: ShutdownFlags = []

    init(_ id: ConnectionID, _ conversation: Conversation, _ end: TrafficEnd, isConnected: Bool) {
        self.id = id
        self.conversation = conversation
        self.end = end
        self.isConnected = isConnected
    }
}

/// See the top of the file.
final class SimulatedGuest: SimulatedDriver {
    static let guestBase: UInt64 = 0x10_0000

    let machine: Int
    let options: GuestOptions
    var endpoint: Endpoint
    let memory: GuestMemory
    let ram: GuestRAM
    var receiveRing: GuestRing
    var transmitRing: GuestRing
    unowned let observer: any GuestObserver
    /// Whether the device serves it.
    var isRunning = false
    /// Its queues have been found broken.
    var isBroken = false
    /// Sends nonsense now.
    var isMisbehaving = false
    var mutator: Mutator
    var ledger = CreditLedger()
    /// By slot of the endpoint.
    var sockets: [GuestSocket?] = []
    /// Conversations that it waits for, by port.
    var listening: [UInt32: Conversation] = [:]

    init(
        _ machine: Int, _ options: GuestOptions, mutation: Mutation?, observer: any GuestObserver
    ) throws(SimulationSetupError) {
        self.machine = machine
        self.options = options
        self.observer = observer
        mutator = Mutator(mutation)
        endpoint = Endpoint(Self.configuration(options))
        let receiveByteCount = GuestRing.byteCount(options.rings, payload: options.rings.receivePayload)
        let byteCount = receiveByteCount + GuestRing.byteCount(options.rings, payload: options.rings.transmitPayload)
        ram = GuestRAM(byteCount: byteCount + 4096)
        do {
            memory = try GuestMemory(regions: [
                GuestMemory.Region(
                    guestAddress: Self.guestBase, byteCount: UInt64(ram.byteCount), base: ram.base, owner: ram)
            ])
            (receiveRing, transmitRing) = try Self.rings(options, ram)
        } catch {
            throw SimulationSetupError(description: "guest \(options.cid): \(error)")
        }
    }

    private static func configuration(_ options: GuestOptions) -> EndpointConfiguration {
        var configuration = EndpointConfiguration(
            localCID: .init(rawValue: options.cid), peerCID: nil, framing: options.framing)
        configuration.bufferByteCount = options.bufferByteCount
        return configuration
    }

    private static func rings(
        _ options: GuestOptions, _ ram: GuestRAM
    ) throws(VirtqueueError) -> (GuestRing, GuestRing) {
        let second = (GuestRing.byteCount(options.rings, payload: options.rings.receivePayload) + 4095) & ~4095
        return (
            try GuestRing(
                options.rings, payload: options.rings.receivePayload, ram: ram, offset: 0, guestBase: guestBase),
            try GuestRing(
                options.rings, payload: options.rings.transmitPayload, ram: ram, offset: second,
                guestBase: guestBase)
        )
    }

    /// The feature bits that its driver accepts.
    var features: UInt64 {
        options.rings.features
            | (options.framing == .standard ? VsockFeatures.seqpacket.rawValue : 0)
            | VsockFeatures.stream.rawValue
    }

    var layouts: (receive: VirtqueueLayout, transmit: VirtqueueLayout) { (receiveRing.layout, transmitRing.layout) }

    /// Where the device goes on that is set up anew over these rings.
    var usedIndices: (receive: UInt16, transmit: UInt16) { (receiveRing.usedIndex, transmitRing.usedIndex) }

    /// Boots: new rings, no connection.
    func reboot() throws(SimulationSetupError) {
        do throws(VirtqueueError) {
            (receiveRing, transmitRing) = try Self.rings(options, ram)
        } catch {
            throw SimulationSetupError(description: "guest \(options.cid): \(error)")
        }
        isBroken = false
        endpoint = Endpoint(Self.configuration(options))
        dropConnections()
    }

    /// VIRTIO_VSOCK_EVENT_TRANSPORT_RESET: all connections are gone, the rings are not.
    func transportReset() {
        endpoint.restart(framing: options.framing)
        dropConnections()
    }

    private func dropConnections() {
        ledger.reset()
        for case let socket? in sockets { socket.end.isClosed = true }
        sockets = []
        for (_, conversation) in listening { conversation.ends.acceptor.isClosed = true }
        listening = [:]
    }

    // MARK: SimulatedDriver

    func called(queue: Int) {
        if queue == 0 { receiveRing.isCalled = true } else { transmitRing.isCalled = true }
    }

    func queueBroken(_ queue: Int) {
        isBroken = true
        if !isMisbehaving { observer.violation("guest \(options.cid): the device finds queue \(queue) broken") }
    }

    func socket(_ id: ConnectionID) -> GuestSocket? {
        let slot = Int(id.slot)
        guard slot < sockets.count, let socket = sockets[slot], socket.id == id else { return nil }
        return socket
    }

    func register(_ socket: GuestSocket) {
        let slot = Int(socket.id.slot)
        while sockets.count <= slot { sockets.append(nil) }
        sockets[slot] = socket
    }

    /// The end of a connection for its program.
    func drop(_ socket: GuestSocket) {
        socket.end.isClosed = true
        let slot = Int(socket.id.slot)
        if slot < sockets.count, sockets[slot] === socket { sockets[slot] = nil }
    }
}

/// Why a simulation cannot be set up: a fault of the simulation itself.
package struct SimulationSetupError: Error, CustomStringConvertible {
    package let description: String
}
