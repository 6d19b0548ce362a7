// SPDX-License-Identifier: Apache-2.0
//
// A driver with sockets: this process is the guest of whatever device listens on a vhost-user socket.
//
// Threads of the application fill the transmit queue, with the table's lock; a thread of the driver waits for the
// device, takes the receive queue in batches with the lock, and looks after the transmit queue when it was full. Callers
// that do not wait may take the receive queue themselves: see PolledPackets.

import VsockCore
import VsockSystem
import VsockWire

/// See the top of the file.
public final class SocketDriver: @unchecked Sendable {
    // Unchecked: the carrier is guarded by the table's lock but for what only its thread touches.
    let carrier: DriverCarrier
    private let thread: WorkerThread

    /// Connects to the back-end that listens on `path` and starts the device.
    /// - Parameters:
    ///   - seqpacket: the framing: `auto` is the standard one if the device has it, else that of RFC v5; `standard` and
    ///     `rfcV5` have no other; `off` has no records.
    ///   - bufferByteCount: the default receive buffer of its sockets.
    ///   - reservesLowPorts: whether binding to ports below 1024 fails with EACCES.
    ///   - reconnectTimeoutNanoseconds: how long a device that has left may take to come back, as one that was killed
    ///     and is started again; its connections end, listeners stay. Without it all sockets fail when it leaves.
    ///   - tap: sees every packet.
    public init(
        path: String, seqpacket: SeqpacketMode = .auto, options: VsockDriver.Options = VsockDriver.Options(),
        bufferByteCount: UInt32 = EndpointConfiguration.defaultBufferByteCount, reservesLowPorts: Bool = false,
        reconnectTimeoutNanoseconds: UInt64? = nil, tap: (any PacketTap)? = nil
    ) throws(VsockDriverError) {
        var options = options
        options.acceptsSeqpacket = options.acceptsSeqpacket && seqpacket.offersFeature
        let driver = try VsockDriver(path: path, options: options)
        var configuration = EndpointConfiguration(
            localCID: driver.guestCID, peerCID: nil,
            framing: seqpacket.framing(isNegotiated: driver.features.contains(.seqpacket)))
        configuration.bufferByteCount = bufferByteCount
        let table = SocketTable(configuration, isReady: true, reservesLowPorts: reservesLowPorts)
        table.tap = tap
        let carrier = DriverCarrier(driver, table, reconnectTimeoutNanoseconds)
        table.carrier = carrier
        self.carrier = carrier
        do throws(SystemCallError) {
            thread = try WorkerThread(name: "vsock-driver") { carrier.run() }
        } catch {
            table.carrier = nil
            throw .system(error)
        }
    }

    deinit { stop() }

    /// The context ID that the device gives its guest.
    public var guestCID: VsockAddress.ContextID { carrier.table.localCID }

    /// A new socket.
    public func makeSocket(_ type: SocketType) -> any ConnectibleSocket { carrier.table.makeSocket(type) }

    /// Lets `tap` see every packet from now on; nil for nobody.
    public func setTap(_ tap: (any PacketTap)?) { carrier.table.lock.withLock { carrier.table.tap = tap } }

    /// Blocks until all connections have ended, those that linger after a close too, or the time has passed.
    public func waitForClosed(timeoutNanoseconds: UInt64) {
        carrier.table.waitForClosed(timeoutNanoseconds: timeoutNanoseconds)
    }

    /// Buffers that the device has, by queue.
    public var inFlightCounts: (receive: Int, transmit: Int, event: Int) { carrier.inFlightCounts }

    /// Leaves the device. All sockets fail.
    public func stop() {
        carrier.stop()
        thread.join()
        carrier.table.lock.withLock { carrier.table.carrier = nil }
    }
}

/// Joins a driver to a table.
final class DriverCarrier: PacketCarrier, @unchecked Sendable {
    /// Packets taken before senders have their turn at the lock.
    private static let batchCount = 64
    /// Time between two looks for a device that has left.
    private static let retryNanoseconds: UInt64 = 20_000_000

    let table: SocketTable
    private let driver: VsockDriver
    /// Whether a sender waits for the device to deal with packets.
    @exclusivity(unchecked) private var isFull = false
    @exclusivity(unchecked) private var mustStop = false
    private let reconnectTimeoutNanoseconds: UInt64?
    @exclusivity(unchecked) private var polling = PolledPackets()
    /// Whether the device has come back and no packet of it has come yet: then its word that all connections have
    /// ended is about those that ended when it left.
    private var hasJustReturned = false

    init(_ driver: VsockDriver, _ table: SocketTable, _ reconnectTimeoutNanoseconds: UInt64?) {
        self.driver = driver
        self.table = table
        self.reconnectTimeoutNanoseconds = reconnectTimeoutNanoseconds
    }

    func stop() {
        table.lock.withLock { mustStop = true }
        driver.wakeUp()
    }

    func run() {
        defer { table.lock.withLock { table.fail() } }
        repeat {
            do throws(VsockDriverError) {
                while true {
                    switch try turn() {
                    case .more: continue
                    case .waits(let time):
                        guard try driver.awaitInterrupt(timeoutNanoseconds: time) == .hasLeft else { continue }
                        // What it has sent before comes first.
                        table.lock.withLock { _ = polling.end() }
                        guard case .more = try turn() else { throw VsockDriverError.session("the back-end has left") }
                    case .stops: return
                    }
                }
            } catch .queue {
                // The device is broken; every socket is told.
                return
            } catch {
                // It has left.
            }
        } while reconnect()
    }

    /// Ends the connections, waits for the device to come back, and goes on with it.
    private func reconnect() -> Bool {
        guard let reconnectTimeoutNanoseconds else { return false }
        let framing = table.endpoint.configuration.framing
        table.lock.withLock { table.restart(framing: framing, isReady: false) }
        let deadline = table.now.advanced(byNanoseconds: reconnectTimeoutNanoseconds)
        while table.now < deadline, !table.lock.withLock({ mustStop }) {
            if (try? driver.reconnect()) != nil {
                hasJustReturned = true
                table.lock.withLock { table.restart(framing: framing, isReady: true) }
                return true
            }
            driver.pause(nanoseconds: Self.retryNanoseconds)
        }
        return false
    }

    /// Buffers that the device has, by queue.
    var inFlightCounts: (receive: Int, transmit: Int, event: Int) {
        table.lock.withLock {
            _ = try? driver.reclaimTransmitted()
            return driver.inFlightCounts
        }
    }

    /// How the driver's thread goes on.
    private enum Turn {
        case more
        /// Until an interrupt, or for so many nanoseconds.
        case waits(UInt64?)
        case stops
    }

    /// Takes what has come.
    private func turn() throws(VsockDriverError) -> Turn {
        table.lock.lock()
        defer { table.lock.unlock() }
        guard !mustStop else {
            table.resetConnections()
            return .stops
        }
        if isFull, try driver.reclaimTransmitted() > 0 {
            isFull = false
            table.roomFreed()
        }
        if try driver.takeTransportReset(), !hasJustReturned {
            table.restart(framing: table.endpoint.configuration.framing, isReady: true)
        }
        guard !polling.look() else { return .waits(PolledPackets.lookNanoseconds) }
        if try driver.receive(limit: Self.batchCount, { table.deliver($0, $1) }) > 0 { hasJustReturned = false }
        table.pump()
        return driver.requestReceiveInterrupt() ? .more : .waits(nil)
    }

    // MARK: PacketCarrier

    var usualCapacity: Int { PacketHeader.maximumPayloadByteCount }

    func reaches(_ cid: VsockAddress.ContextID) -> Bool { cid != .local && cid != table.localCID }

    func capacity(wanting byteCount: Int) -> Int? {
        while driver.transmitCapacity == 0 {
            // A broken queue is found by the driver's thread, too.
            if ((try? driver.reclaimTransmitted()) ?? 0) > 0 { break }
            driver.flush()
            guard driver.requestTransmitInterrupt() else {
                isFull = true
                return nil
            }
        }
        return PacketHeader.maximumPayloadByteCount
    }

    func commit(_ header: PacketHeader, _ payload: UnsafeRawBufferPointer) {
        _ = try? driver.transmit(header, payload: payload)
    }

    func flush() { driver.flush() }

    var isPolled: Bool { polling.isPolled }

    func poll(byteCount: Int) -> Bool {
        // Without a device, the queues are the driver's thread's.
        guard table.isReady else { return false }
        // A broken queue is found by the driver's thread, too.
        let count = (try? driver.receive(byteLimit: byteCount) { table.deliver($0, $1) }) ?? 0
        if count > 0 {
            hasJustReturned = false
            polling.found()
        } else {
            polling.end()
        }
        // The interrupt that was asked for has come, or comes no more.
        if !polling.isPolled, driver.requestReceiveInterrupt() { driver.wakeUp() }
        return count > 0
    }
}
