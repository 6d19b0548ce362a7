// SPDX-License-Identifier: Apache-2.0
//
// A socket, whatever carries it: over a table (driver, device, loopback) or over a descriptor (the kernel's AF_VSOCK,
// a hybrid Unix socket). Implementations only make attempts; the loops that wait, for threads and for tasks, are in
// ConnectibleSocket+Waiting, once for all.

import VsockCore
import VsockWire

/// A send in progress.
public struct SendOperation {
    /// What was asked for.
    public var options: SendOptions
    var sentByteCount = 0
    /// Names the operation as the owner of the record under way; 0 before it owns one.
    var token: UInt64 = 0
    /// Whether an attempt may block the thread, for any time.
    var blocksThread = false
    /// Whether an attempt may look for a few microseconds whether it can go on after all.
    var maySpin = false

    /// A send that has not begun.
    public init(_ options: SendOptions = SendOptions()) { self.options = options }
}

/// A receive in progress.
public struct ReceiveOperation {
    /// What was asked for.
    public var options: ReceiveOptions
    var copiedByteCount = 0
    /// Names the operation as the owner of the record that it has begun to take; 0 before.
    var token: UInt64 = 0
    /// As for ``SendOperation``.
    var maySpin = false

    /// A receive that has not begun.
    public init(_ options: ReceiveOptions = ReceiveOptions()) { self.options = options }
}

/// A connect in progress.
public struct ConnectOperation {
    var hasStarted = false
    var deadline: Instant?
    /// Before this, the kernel has not given up connecting by itself.
    var kernelDeadline: Instant?
    /// What a descriptor's handshake has read so far.
    var answer: [UInt8] = []

    /// A connect that has not begun.
    public init() {}
}

/// See the top of the file. Every method may be called from any thread.
public protocol ConnectibleSocket: AnyObject, Sendable {
    /// Stream or seqpacket.
    var type: SocketType { get }
    /// The address of this side; ports and CIDs not chosen yet are `any`.
    var localAddress: VsockAddress { get }
    /// The address of the peer; nil without connection.
    var peerAddress: VsockAddress? { get }
    /// Options in force.
    var settings: SocketSettings { get }
    /// SO_RCVTIMEO; 0 waits for ever. Every receive looks at it, so it should cost less than ``settings``.
    var receiveTimeoutNanoseconds: UInt64 { get }
    /// SO_SNDTIMEO, likewise for every send.
    var sendTimeoutNanoseconds: UInt64 { get }
    /// Readiness now.
    var readiness: SocketReadiness { get }
    /// SIOCINQ: bytes that wait to be received.
    var unreadByteCount: Int { get }
    /// SIOCOUTQ: bytes accepted from the application that have not left for the peer.
    var unsentByteCount: Int { get }
    /// SO_ERROR: takes the error that waits on the socket.
    func takeError() -> SocketError?
    /// setsockopt(2)
    func set(_ option: SocketOption) throws(SocketError)

    /// bind(2)
    func bind(to address: VsockAddress) throws(SocketError)
    /// listen(2)
    func listen(backlog: Int) throws(SocketError)
    /// shutdown(2)
    func shutdown(_ direction: ShutdownDirection) throws(SocketError)
    /// close(2). Again does nothing; calls that wait end with EBADF.
    func close()

    /// accept(2), once.
    func attemptAccept() throws(SocketError) -> Attempt<any ConnectibleSocket>
    /// connect(2): begins, or looks whether it has ended.
    func attemptConnect(
        to address: VsockAddress, _ operation: inout ConnectOperation
    ) throws(SocketError) -> Attempt<Void>
    /// Gives up connecting.
    func abandonConnect()
    /// send(2): sends what goes now, from where the operation stands.
    func attemptSend(
        _ bytes: UnsafeRawBufferPointer, _ operation: inout SendOperation
    ) throws(SocketError) -> Attempt<Int>
    /// Ends a send that is not done; returns the bytes of a stream that went.
    func abandonSend(_ operation: inout SendOperation) -> Int
    /// recv(2): takes what is there now. `buffer` is the same for all attempts of an operation.
    func attemptReceive(
        into buffer: UnsafeMutableRawBufferPointer, _ operation: inout ReceiveOperation
    ) throws(SocketError) -> Attempt<ReceiveResult>
    /// Ends a receive that is not done; returns the bytes of a stream that it has. Those of a record stay in the socket.
    func abandonReceive(from buffer: UnsafeMutableRawBufferPointer, _ operation: inout ReceiveOperation) -> Int

    /// A ticket to wait for readiness with.
    func readinessTicket(_ kind: WaitKind) -> WaitTicket
    /// Blocks the thread: see ``WaitOutcome``.
    func wait(_ ticket: WaitTicket, until deadline: Instant?) -> WaitOutcome
    /// Suspends the task: see ``WaitOutcome``.
    nonisolated(nonsending) func waitSuspended(_ ticket: WaitTicket, until deadline: Instant?) async -> WaitOutcome
}
