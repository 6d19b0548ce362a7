// SPDX-License-Identifier: Apache-2.0
//
// The limits of one VM that its owner can set: virtio 1.3 leaves all of them to the device. Reaching one refuses new
// work of that VM, is counted, and is logged once a second at most; nobody else is concerned. Limits that follow from a
// specification or a system call are constants where they are used; Documentation/Architecture.md lists those, too.

import VsockCore
import VsockWire

/// The limits of one VM.
public struct DeviceLimits: Sendable, Equatable {
    /// A limit, by its key of the command line.
    public enum Name: String, CaseIterable, Sendable {
        /// Connections with the host, and as many with other guests.
        case connections = "max-connections"
        /// Those of them that have been asked for and not answered.
        case halfOpen = "max-half-open"
        /// Programs on the host that have connected and not said CONNECT. More wait in the sockets' backlogs.
        case silentClients = "max-silent-clients"
        /// Programs on the host that leave within one second without having said CONNECT, or lose their place: each of
        /// them costs the thread of the device as much as some packets. Who comes then waits until the second is over.
        case failedClients = "max-failed-clients"
        /// Bytes that connections may hold for readers who do not read. Each connection may hold its receive buffer, and a
        /// batch of packets whose credit was returned before it left, so this limits connections, too; it is never exceeded
        /// by what is there already.
        case queuedBytes = "max-queued-bytes"
        /// Records that one connection may hold; credit bounds all but those without a byte.
        case queuedRecords = "max-queued-records"
        /// Programs on the host that keep undelivered data of connections that the guest has ended.
        case lingering = "max-lingering"
        /// Messages that wait for a guest's device, up to which other guests' requests for connections are taken.
        case siblingMessages = "max-sibling-messages"
        /// Requests of the guest that other guests refuse, or do not answer, within one second: each of them costs those
        /// guests as well. What it asks for then is refused by its own device until the second is over.
        case failedRequests = "max-failed-requests"
        /// Milliseconds of processor time that what the monitor asks for may take within one second. What it asks for then
        /// waits until the second is over.
        case monitorMilliseconds = "max-monitor-milliseconds"
        /// Regions of guest memory.
        case memoryRegions = "max-memory-regions"
        /// Segments of memory of one descriptor chain from the guest.
        case chainSegments = "max-chain-segments"

        /// The limit when nobody sets it.
        public var defaultValue: Int {
            switch self {
            case .connections: EndpointConfiguration.defaultMaximumConnectionCount
            case .halfOpen: EndpointConfiguration.defaultMaximumHalfOpenCount
            case .silentClients: 256
            // Some percent of a thread.
            case .failedClients, .failedRequests: 1000
            // All connections with the default buffer.
            case .queuedBytes: 8 << 30
            // As many as the default buffer has bytes.
            case .queuedRecords: 256 * 1024
            case .lingering: 1024
            case .siblingMessages: 65_536
            // A guest's start takes half of one, and thirteen with all memory regions added one by one.
            case .monitorMilliseconds: 50
            // What a KVM guest can have.
            case .memoryRegions: 509
            // A chain of Linux has at most 19.
            case .chainSegments: 4096
            }
        }

        /// What it can be set to: enough for one of everything, and no more than the implementation can keep.
        public var range: ClosedRange<Int> {
            switch self {
            case .connections, .halfOpen: 1...1_000_000
            case .silentClients, .lingering: 1...100_000
            case .failedClients, .failedRequests: 1...1_000_000
            case .queuedBytes: 1 << 16...1 << 40
            case .queuedRecords: 1...1 << 30
            case .siblingMessages: 1...1 << 24
            case .monitorMilliseconds: 1...1000
            case .memoryRegions: 1...509
            // A batch of chains shares the list.
            case .chainSegments: 64...65_536
            }
        }
    }

    private var values: [Name: Int] = [:]

    /// The defaults.
    public init() {}

    /// A limit; setting brings it into its range.
    public subscript(name: Name) -> Int {
        get { values[name] ?? name.defaultValue }
        set { values[name] = min(max(newValue, name.range.lowerBound), name.range.upperBound) }
    }
}

/// How one limit of a VM stands.
public struct LimitEntry: Sendable, Equatable {
    /// Which one.
    public var name: DeviceLimits.Name
    /// Its value.
    public var limit: Int
    /// What counts against it now; nil for one that is about single things, such as a chain.
    public var current: Int?
    /// How often it was reached since the device's start.
    public var reachedCount: Int

    /// An entry with these values.
    public init(name: DeviceLimits.Name, limit: Int, current: Int?, reachedCount: Int) {
        self.name = name
        self.limit = limit
        self.current = current
        self.reachedCount = reachedCount
    }
}

extension VsockDeviceConfiguration {
    /// Bytes that one connection may hold: what the guest may send without new credit, after a batch whose credit was
    /// returned before it left.
    var connectionByteCount: Int {
        let byteCount = Int(bufferByteCount)
        return byteCount + min(byteCount, VsockDevice.largestBatchByteCount)
    }

    /// What the device's endpoints are made of.
    var endpoint: EndpointConfiguration {
        var endpoint = EndpointConfiguration(
            localCID: .host, peerCID: .init(rawValue: guestCID), framing: .none)
        endpoint.bufferByteCount = bufferByteCount
        endpoint.connectTimeoutNanoseconds = connectTimeoutNanoseconds
        endpoint.closeTimeoutNanoseconds = closeTimeoutNanoseconds
        endpoint.maximumConnectionCount = min(
            limits[.connections], max(1, limits[.queuedBytes] / max(1, connectionByteCount)))
        endpoint.maximumHalfOpenCount = limits[.halfOpen]
        return endpoint
    }
}
