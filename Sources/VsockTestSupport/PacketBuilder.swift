// SPDX-License-Identifier: Apache-2.0
//
// Packets for tests: the addresses of a flow are written once, each packet says only what is special about it.

import VsockCore
import VsockWire

/// Builds the packets of one flow, as its sender would.
public struct PacketBuilder: Sendable {
    /// Context ID of the sender.
    public var sourceCID: UInt64
    /// Port of the sender.
    public var sourcePort: UInt32
    /// Context ID of the receiver.
    public var destinationCID: UInt64
    /// Port of the receiver.
    public var destinationPort: UInt32
    /// Socket type.
    public var type: SocketType
    /// Receive buffer of the sender.
    public var bufferAllocation: UInt32 = 262_144
    /// What the sender has consumed.
    public var forwardedCount: UInt32 = 0

    /// A flow from guest 3 to the host, unless told otherwise.
    public init(
        from sourceCID: UInt64 = 3, port sourcePort: UInt32 = 0x10000, to destinationCID: UInt64 = 2,
        port destinationPort: UInt32 = 1234, type: SocketType = .stream
    ) {
        self.sourceCID = sourceCID
        self.sourcePort = sourcePort
        self.destinationCID = destinationCID
        self.destinationPort = destinationPort
        self.type = type
    }

    /// A packet of the flow.
    public func packet(
        _ operation: Operation, flags: UInt32 = 0, payloadByteCount: UInt32 = 0
    ) -> PacketHeader {
        PacketHeader(
            sourceCID: sourceCID, destinationCID: destinationCID, sourcePort: sourcePort,
            destinationPort: destinationPort, payloadByteCount: payloadByteCount, type: type, operation: operation,
            flags: flags, bufferAllocation: bufferAllocation, forwardedCount: forwardedCount)
    }
}

extension Endpoint {
    /// Receives a packet of a test at time 0, with a marker that stands in its payload.
    @discardableResult
    public mutating func receive(_ header: PacketHeader, marker: SequenceHeader? = nil) -> Reception {
        receive(header, marker: marker, now: Instant(nanoseconds: 0))
    }

    /// Takes all control packets.
    public mutating func allControlPackets() -> [PacketHeader] {
        var packets: [PacketHeader] = []
        while let packet = nextControlPacket() { packets.append(packet) }
        return packets
    }
}

extension EndpointConfiguration {
    /// The host's side of a device whose guest has context ID 3.
    public static func host(_ framing: RecordFraming = .standard) -> EndpointConfiguration {
        EndpointConfiguration(localCID: .host, peerCID: 3, framing: framing)
    }

    /// The side of guest 3.
    public static func guest(_ framing: RecordFraming = .standard) -> EndpointConfiguration {
        EndpointConfiguration(localCID: 3, peerCID: .host, framing: framing)
    }
}
