// SPDX-License-Identifier: Apache-2.0
//
// The local transport, context ID 1 (Linux: vsock_loopback.c): both ends of a connection are in the same endpoint, and a
// packet is delivered in the call that sends it.

import VsockCore
import VsockWire

/// Sockets that reach each other in this process.
public final class Loopback: Sendable {
    private let table: SocketTable

    /// A loopback of its own: ports of two loopbacks have nothing to do with each other.
    /// - Parameters:
    ///   - seqpacket: `auto` is the standard framing here.
    ///   - bufferByteCount: the default receive buffer of its sockets.
    ///   - reservesLowPorts: whether binding to ports below 1024 fails with EACCES.
    public init(
        seqpacket: SeqpacketMode = .auto,
        bufferByteCount: UInt32 = EndpointConfiguration.defaultBufferByteCount, reservesLowPorts: Bool = false
    ) {
        var configuration = EndpointConfiguration(
            localCID: .local, peerCID: .local, framing: seqpacket.framing(isNegotiated: seqpacket.offersFeature))
        configuration.bufferByteCount = bufferByteCount
        table = SocketTable(configuration, isReady: true, reservesLowPorts: reservesLowPorts)
        table.carrier = LoopbackCarrier(table)
        table.tapsOnlyOutgoing = true
        table.carriesDirectly = true
    }

    /// A new socket. Keep the loopback as long as its sockets are used.
    public func makeSocket(_ type: SocketType) -> any ConnectibleSocket { table.makeSocket(type) }

    /// Lets `tap` see every packet from now on; nil for nobody.
    public func setTap(_ tap: (any PacketTap)?) {
        table.lock.withLock {
            if tap != nil { table.settleAll() }
            table.tap = tap
        }
    }

    /// Blocks until all connections have ended, those that linger after a close too, or the time has passed.
    public func waitForClosed(timeoutNanoseconds: UInt64) {
        table.waitForClosed(timeoutNanoseconds: timeoutNanoseconds)
    }
}

/// Hands a table's packets back to it.
private final class LoopbackCarrier: PacketCarrier {
    /// Which owns this object.
    private unowned(unsafe) let table: SocketTable

    init(_ table: SocketTable) { self.table = table }

    var usualCapacity: Int { PacketHeader.maximumPayloadByteCount }

    func capacity(wanting byteCount: Int) -> Int? { PacketHeader.maximumPayloadByteCount }

    func commit(_ header: PacketHeader, _ payload: UnsafeRawBufferPointer) { table.deliver(header, payload) }

    func flush() {}

    func reaches(_ cid: VsockAddress.ContextID) -> Bool { cid == .local || cid == .host }
}
