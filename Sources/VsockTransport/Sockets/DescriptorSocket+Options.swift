// SPDX-License-Identifier: Apache-2.0
//
// setsockopt(2) of descriptor sockets. Times are kept here, since it is here that calls wait; sizes are the kernel's.

import VsockCore
import VsockSystem
import VsockWire

extension DescriptorSocket {
    /// SO_SNDBUF of a hybrid socket with records, which it bounds. The kernel grants net.core.wmem_max at most.
    private static let recordSendBuffer = 4 << 20

    /// Options in force.
    public var settings: SocketSettings { lock.withLock { settingsInForce } }

    /// SO_RCVTIMEO; 0 waits for ever.
    public var receiveTimeoutNanoseconds: UInt64 { settings.receiveTimeoutNanoseconds }

    /// SO_SNDTIMEO; 0 waits for ever.
    public var sendTimeoutNanoseconds: UInt64 { settings.sendTimeoutNanoseconds }

    /// Sets an option. The kernel's sockets have the kernel's buffers, connect timeout and low-water mark. A hybrid
    /// device decides about its own buffers: there the buffer size is SO_SNDBUF of the Unix socket, which bounds a
    /// record, and the other sizes are EOPNOTSUPP.
    public func set(_ option: SocketOption) throws(SocketError) {
        switch option {
        case .bufferSize(let size):
            switch family {
            case .kernel: try setBuffer(.size, size)
            case .hybrid: try setHybridBuffer(size)
            }
        case .bufferMinimumSize(let size): try setBuffer(.minimumSize, size)
        case .bufferMaximumSize(let size): try setBuffer(.maximumSize, size)
        case .connectTimeout(let time):
            let nanoseconds = try Self.nanoseconds(time)
            if case .kernel = family {
                try withDescriptor(.any) { (raw, _) throws(SocketError) in
                    try Self.call { () throws(SystemCallError) in
                        try VsockKernelSocket.setConnectTimeout(raw, nanoseconds: nanoseconds)
                    }
                }
            }
            change {
                $0.connectTimeoutNanoseconds =
                    nanoseconds == 0 ? EndpointConfiguration.defaultConnectTimeoutNanoseconds : nanoseconds
            }
        case .receiveTimeout(let time):
            let nanoseconds = try Self.nanoseconds(time)
            change { $0.receiveTimeoutNanoseconds = nanoseconds }
        case .sendTimeout(let time):
            let nanoseconds = try Self.nanoseconds(time)
            change { $0.sendTimeoutNanoseconds = nanoseconds }
        case .receiveLowWaterMark(let count):
            let mark = try settings.lowWaterMark(count, type)
            if case .kernel = family {
                try withDescriptor(.any) { (raw, _) throws(SocketError) in
                    try Self.call { () throws(SystemCallError) in
                        try SocketOptions.setReceiveLowWaterMark(raw, byteCount: count)
                    }
                }
            }
            change { $0.receiveLowWaterMark = mark }
            lock.withLock { waits.signal(.readable) }
        }
    }

    /// Sizes and connect timeout as the kernel has them: it keeps the sizes in order, and a connection has those that
    /// its listener had when the peer asked.
    func readKernelSettings() {
        let settings = try? withDescriptor(.any) { (raw, _) throws(SocketError) in
            try Self.call { () throws(SystemCallError) in
                (
                    try VsockKernelSocket.buffer(raw, .size), try VsockKernelSocket.buffer(raw, .minimumSize),
                    try VsockKernelSocket.buffer(raw, .maximumSize), try VsockKernelSocket.connectTimeout(raw)
                )
            }
        }
        guard let settings else { return }
        change {
            ($0.bufferSize, $0.bufferMinimumSize, $0.bufferMaximumSize, $0.connectTimeoutNanoseconds) = settings
        }
    }

    /// Options that a hybrid socket has from the start. All are best effort: the kernel's limits are the user's.
    func prepareHybrid(_ raw: Int32) {
        if let size = lock.withLock({ hybridSendBuffer }) ?? (type == .seqpacket ? Self.recordSendBuffer : nil) {
            try? SocketOptions.setSendBuffer(raw, byteCount: size)
        }
        if type == .seqpacket { try? SocketOptions.setPassCredentials(raw) }
    }

    private func setHybridBuffer(_ size: UInt64) throws(SocketError) {
        guard size > 0 else { throw .invalidArgument }
        let byteCount = Int(clamping: size)
        let isOpen = lock.withLock {
            hybridSendBuffer = byteCount
            settingsInForce.bufferSize = size
            return descriptor != nil
        }
        guard isOpen else { return }
        try withDescriptor(.any) { (raw, _) throws(SocketError) in
            try Self.call { () throws(SystemCallError) in try SocketOptions.setSendBuffer(raw, byteCount: byteCount) }
        }
    }

    private func setBuffer(_ option: VsockKernelBufferOption, _ size: UInt64) throws(SocketError) {
        guard case .kernel = family else { throw .notSupported }
        try withDescriptor(.any) { (raw, _) throws(SocketError) in
            try Self.call { () throws(SystemCallError) in
                try VsockKernelSocket.setBuffer(raw, option, byteCount: size)
            }
        }
        readKernelSettings()
    }

    private func change(_ body: (inout SocketSettings) -> Void) { lock.withLock { body(&settingsInForce) } }

    private static func nanoseconds(_ time: Duration) throws(SocketError) -> UInt64 {
        guard let nanoseconds = time.wholeNanoseconds else { throw .outOfRange }
        return nanoseconds
    }
}
