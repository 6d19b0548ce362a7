// SPDX-License-Identifier: Apache-2.0
//
// MSG_ZEROCOPY (Linux: Documentation/networking/msg_zerocopy.rst): the kernel sends out of the caller's pages, and says on
// the socket's error queue when it is done with them. AF_VSOCK has it from Linux 6.7 on.

import CVsockLinux
import Glibc

/// The kernel is done with the memory of some sends.
public struct ZeroCopyCompletion: Equatable, Sendable {
    /// How many, as the kernel counts them: a call that it sends in parts is several.
    public let sendCount: Int
    /// SO_EE_CODE_ZEROCOPY_COPIED: it has copied the bytes after all.
    public let wasCopied: Bool
}

extension SocketOptions {
    /// SO_ZEROCOPY, without which ``MessageFlags/zeroCopy`` has no effect. Of AF_VSOCK, a connected socket. Throws
    /// EOPNOTSUPP if the kernel or the socket's transport has no MSG_ZEROCOPY.
    public static func enableZeroCopy(_ descriptor: Int32) throws(SystemCallError) {
        try set(descriptor, level: SOL_SOCKET, name: SO_ZEROCOPY, to: Int32(1))
    }
}

extension MessageFlags {
    /// MSG_ZEROCOPY: the memory must stay as it is until its ``ZeroCopyCompletion`` has come. ENOBUFS says that too many
    /// of them have not been taken.
    @inlinable public static var zeroCopy: MessageFlags { MessageFlags(rawValue: 0x400_0000) }
}

extension DescriptorIO {
    /// Takes a completion off an AF_VSOCK socket's error queue, recvmsg(2) with MSG_ERRQUEUE; nil when there is none. Does
    /// not block; the socket has ``PollEvents/error`` while there is one. Throws EIO for what is no completion.
    public static func takeZeroCopyCompletion(_ descriptor: Int32) throws(SystemCallError) -> ZeroCopyCompletion? {
        let space = cvsock_cmsg_space(MemoryLayout<sock_extended_err>.size)
        let result: Result<ZeroCopyCompletion?, SystemCallError> = withUnsafeTemporaryAllocation(
            byteCount: space, alignment: MemoryLayout<cmsghdr>.alignment
        ) { control in
            var header = msghdr()
            header.msg_control = control.baseAddress
            header.msg_controllen = .init(control.count)
            switch receive(descriptor, &header, MessageFlags(rawValue: Int32(MSG_ERRQUEUE))) {
            case .wouldBlock: return .success(nil)
            case .failed(let errno): return .failure(SystemCallError(call: "recvmsg", errno: errno))
            case .message:
                guard let completion = completion(of: &header) else {
                    return .failure(SystemCallError(call: "recvmsg", errno: .inputOutput))
                }
                return .success(completion)
            }
        }
        return try result.get()
    }

    private static func completion(of header: inout msghdr) -> ZeroCopyCompletion? {
        guard let control = cvsock_cmsg_firsthdr(&header), control.pointee.cmsg_level == CVSOCK_SOL_VSOCK,
            control.pointee.cmsg_type == CVSOCK_RECVERR
        else { return nil }
        let report = UnsafeRawPointer(cvsock_cmsg_data(control)).loadUnaligned(as: sock_extended_err.self)
        guard report.ee_origin == UInt8(SO_EE_ORIGIN_ZEROCOPY), report.ee_errno == 0 else { return nil }
        // Numbers of sends, first and last, which wrap around.
        return ZeroCopyCompletion(
            sendCount: Int(report.ee_data &- report.ee_info) + 1,
            wasCopied: report.ee_code & UInt8(SO_EE_CODE_ZEROCOPY_COPIED) != 0)
    }
}
