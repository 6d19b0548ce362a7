// SPDX-License-Identifier: Apache-2.0
//
// Sending with MSG_ZEROCOPY, which only the kernel's AF_VSOCK has: connections without a socket of the API, and what the
// kernel says when it is done with the memory of sends. As the message stays what it is, no send waits for that.

import VsockSystem
import VsockWire

extension DescriptorSide {
    /// As long as the peer may take to read what is on its way.
    private static let endTimeoutNanoseconds: UInt64 = 5_000_000_000

    /// Connects to a receiver through the running kernel.
    convenience init(zeroCopyTo address: VsockKernelAddress, _ plan: PerfPlan, bufferByteCount: UInt64) throws {
        let type = (plan.type == .stream ? UnixSocketType.stream : .seqpacket).rawValue
        let connections = try (0..<(plan.connectionCount + plan.idleCount)).map { _ in
            do throws(SystemCallError) {
                let socket = try VsockKernelSocket.make(type: type, nonBlocking: false)
                try VsockKernelSocket.setBuffer(socket.rawValue, .maximumSize, byteCount: bufferByteCount)
                try VsockKernelSocket.setBuffer(socket.rawValue, .size, byteCount: bufferByteCount)
                _ = try VsockKernelSocket.connect(socket.rawValue, to: address)
                try SocketOptions.enableZeroCopy(socket.rawValue)
                return SharedFileDescriptor(socket)
            } catch  where error.errno == .notSupported {
                throw Failure("--zerocopy: \(error): AF_VSOCK has it from Linux 6.7 on")
            } catch {
                throw Failure("\(error): does a receiver wait there?")
            }
        }
        self.init(connections, plan)
    }

    /// Takes the completions that have come.
    func takeCompletions(_ raw: Int32) throws {
        while let completion = try DescriptorIO.takeZeroCopyCompletion(raw) { meter.count(completion) }
    }

    /// Waits for a completion: the kernel remembers so many sends and no more.
    func awaitCompletions(_ raw: Int32) throws {
        _ = try DescriptorIO.waitUntilReady(raw, for: [], timeoutNanoseconds: nil)
        try takeCompletions(raw)
    }

    /// The peer reads the end. It ends too when it has everything, and then the kernel is done with the memory.
    func finishZeroCopy(_ raw: Int32) throws {
        try? SocketOptions.shutdown(raw, .send)
        let deadline = MonotonicClock.now() + Self.endTimeoutNanoseconds
        while true {
            let now = MonotonicClock.now()
            let ready = try DescriptorIO.waitUntilReady(
                raw, for: .readHangUp, timeoutNanoseconds: deadline > now ? deadline - now : 0)
            try takeCompletions(raw)
            if ready.isEmpty || !ready.isDisjoint(with: [.readHangUp, .hangUp]) { return }
        }
    }
}
