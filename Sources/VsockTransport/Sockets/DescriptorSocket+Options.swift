// SPDX-License-Identifier: Apache-2.0
//
// setsockopt(2) of descriptor sockets.

import VsockCore
import VsockSystem
import VsockWire

extension DescriptorSocket {
    // SOL_SOCKET and SO_PASSCRED of Linux, on every architecture that Swift has there.
    private static let socketLevel: Int32 = 1
    private static let passCredentials: Int32 = 16

    /// SO_SNDBUF of a hybrid socket with records, which it bounds. The kernel grants net.core.wmem_max at most.
    private static let recordSendBuffer = 4 << 20

    /// Sets an option. The kernel's sockets have the kernel's buffers, connect timeout and low-water mark. A hybrid
    /// device decides about its own buffers: there the buffer size is SO_SNDBUF of the Unix socket, which bounds a
    /// record.
    public func set(_ option: SocketOption) throws(SocketError) {
        var settings = settings
        switch option {
        case .bufferSize(let size):
            switch family {
            case .kernel: try setKernelBuffer(.size, size)
            case .hybrid: try setHybridBuffer(size)
            }
            settings.bufferSize = size
        case .bufferMinimumSize(let size):
            try setKernelBuffer(.minimumSize, size)
            settings.bufferMinimumSize = size
        case .bufferMaximumSize(let size):
            try setKernelBuffer(.maximumSize, size)
            settings.bufferMaximumSize = size
        case .connectTimeout(let time):
            let zero = EndpointConfiguration.defaultConnectTimeoutNanoseconds
            let nanoseconds = try Self.time(time)
            settings.connectTimeoutNanoseconds = nanoseconds == 0 ? zero : nanoseconds
            try callKernel { (raw) throws(SystemCallError) in
                try VsockKernelSocket.setConnectTimeout(raw, nanoseconds: nanoseconds)
            }
        case .receiveTimeout(let time): settings.receiveTimeoutNanoseconds = try Self.time(time)
        case .sendTimeout(let time): settings.sendTimeoutNanoseconds = try Self.time(time)
        case .receiveLowWaterMark(let count):
            guard count >= 0, UInt64(count) <= settings.bufferSize else { throw .invalidArgument }
            settings.receiveLowWaterMark = max(1, count)
            try callKernel { (raw) throws(SystemCallError) in
                try SocketOptions.setReceiveLowWaterMark(raw, byteCount: count)
            }
        }
        lock.withLock { settingsInForce = settings }
    }

    /// Options that a hybrid socket has from the start. All are best effort: the kernel's limits are the user's.
    func prepareHybrid(_ raw: Int32) {
        if let size = lock.withLock({ hybridSendBuffer }) ?? (type == .seqpacket ? Self.recordSendBuffer : nil) {
            try? SocketOptions.setSendBuffer(raw, byteCount: size)
        }
        if type == .seqpacket {
            try? SocketOptions.set(raw, level: Self.socketLevel, name: Self.passCredentials, to: Int32(1))
        }
    }

    private func setHybridBuffer(_ size: UInt64) throws(SocketError) {
        guard size > 0 else { throw .invalidArgument }
        let size = Int(clamping: size)
        lock.withLock { hybridSendBuffer = size }
        guard lock.withLock({ watch != nil }) else { return }
        try withDescriptor(.any) { (raw, _) throws(SocketError) in
            try Self.call { () throws(SystemCallError) in try SocketOptions.setSendBuffer(raw, byteCount: size) }
        }
    }

    private func setKernelBuffer(_ option: VsockKernelBufferOption, _ size: UInt64) throws(SocketError) {
        guard case .kernel = family else { throw .notSupported }
        try callKernel { (raw) throws(SystemCallError) in
            try VsockKernelSocket.setBuffer(raw, option, byteCount: size)
        }
    }

    /// Makes a system call on a socket of the kernel, and none on another.
    private func callKernel(_ body: (Int32) throws(SystemCallError) -> Void) throws(SocketError) {
        guard case .kernel = family else { return }
        try withDescriptor(.any) { (raw, _) throws(SocketError) in
            try Self.call { () throws(SystemCallError) in try body(raw) }
        }
    }

    private static func time(_ time: Duration) throws(SocketError) -> UInt64 {
        guard let nanoseconds = time.wholeNanoseconds else { throw .outOfRange }
        return nanoseconds
    }
}
