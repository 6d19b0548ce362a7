// SPDX-License-Identifier: Apache-2.0
//
// What a script asks of a socket, with the results of Linux's calls: so that the same script runs on the kernel's
// sockets by system calls (KernelScriptedSocket) and on the sockets of this package (PackageScriptedSocket).

import VsockCore
import VsockTransport
import VsockWire

/// What recvmsg(2) gave.
struct ReceivedMessage: Equatable {
    /// Its result: bytes, or the length of the record with MSG_TRUNC.
    var result: Int
    /// The bytes in the buffer.
    var bytes: [UInt8]
    var endOfRecord = false
    var truncated = false
}

/// A socket, by its calls; each may throw what Linux's would.
protocol ScriptedSocket: AnyObject {
    func bind(to address: VsockAddress) throws(SocketError)
    func listen(backlog: Int) throws(SocketError)
    func connect(to address: VsockAddress, noWait: Bool) throws(SocketError)
    func accept(noWait: Bool) throws(SocketError) -> any ScriptedSocket
    func send(_ bytes: [UInt8], noWait: Bool, endOfRecord: Bool) throws(SocketError) -> Int
    func receive(_ count: Int, _ flags: SocketCall.ReceiveFlags) throws(SocketError) -> ReceivedMessage
    func shutdown(_ direction: SocketCall.Direction) throws(SocketError)
    func set(_ option: SocketCall.Option, _ value: Int) throws(SocketError)
    func get(_ option: SocketCall.Option) throws(SocketError) -> Int
    /// poll(2) for everything, without waiting.
    func poll() throws(SocketError) -> SocketReadiness
    func takeError() throws(SocketError) -> SocketError?
    func localAddress() throws(SocketError) -> VsockAddress
    func peerAddress() throws(SocketError) -> VsockAddress
    /// SIOCOUTQ
    func unsentByteCount() throws(SocketError) -> Int
    func close()
}

/// Makes the sockets that a script runs on.
protocol ScriptedSockets: AnyObject {
    func makeSocket(_ type: SocketType) throws(SocketError) -> any ScriptedSocket
    /// Returns when everything that the calls so far have sent has arrived, and the answers to it.
    func settle() throws(SocketError)
}
